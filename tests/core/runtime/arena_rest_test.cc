#include "fixture.h"
#include "runtime/ort/ort_library.h"

namespace servolley::ort {
namespace {

using testing::floats;
using testing::Runtime;

// Runs `rows` rows of 4 MiB; as much comes back.
void run_rows(Executor& executor, std::int64_t rows) {
  constexpr std::int64_t kWidth = std::int64_t{1} << 20;
  const std::vector<float> data(static_cast<std::size_t>(rows * kWidth));
  std::vector<OutputTensor> outputs(1);
  const TensorView input = floats({rows, kWidth}, data);
  REQUIRE(executor.run(std::span(&input, 1), rows, outputs).ok());
}

struct Rested : Runtime {
  LargeRuns& large_runs = dynamic_cast<Library&>(*library).large_runs();
  bool will_give_back() { return large_runs.take_if_over(Duration::zero()); }
};

TEST_CASE("what a large run took is given back, unless it was rehearsed") {
  Rested runtime;
  auto runner = runtime.load("identity_fp32");
  auto executor = Runtime::executor_of(*runner);
  run_rows(*executor, 2);
  CHECK_FALSE(runtime.will_give_back());  // too little to be worth it
  run_rows(*executor, 5);
  CHECK(runtime.will_give_back());
  CHECK_FALSE(runtime.will_give_back());

  executor->rehearse(true);
  run_rows(*executor, 5);
  executor->rehearse(false);
  CHECK_FALSE(runtime.will_give_back());
  run_rows(*executor, 5);
  CHECK_FALSE(runtime.will_give_back());
  auto another = Runtime::executor_of(*runner);  // knows what the first has rehearsed
  run_rows(*another, 5);
  CHECK_FALSE(runtime.will_give_back());
  run_rows(*another, 6);
  CHECK(runtime.will_give_back());

  auto stranger = runtime.executor("identity_fp32");
  run_rows(*stranger, 5);
  CHECK(runtime.will_give_back());
}

TEST_CASE("what was kept for a model is given back when it has gone") {
  Rested runtime;
  auto runner = runtime.load("identity_fp32");
  auto executor = Runtime::executor_of(*runner);
  executor->rehearse(true);
  run_rows(*executor, 5);
  executor.reset();
  CHECK_FALSE(runtime.will_give_back());
  runner.reset();
  CHECK(runtime.will_give_back());
  runtime.load("identity_fp32").reset();  // has kept nothing
  CHECK_FALSE(runtime.will_give_back());
}

}  // namespace
}  // namespace servolley::ort
