// Batches that are filled up to one of a few sizes, without graphs.

#include <doctest/doctest.h>

#include "device/memory_of.h"
#include "runtime/graphs.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

struct Setup {
  explicit Setup(const std::string& model = "identity_fp32") : runner(gpus.load(model)) {
    lanes = Gpus::lanes(*runner, 1, {2, 4, 8});
    lanes->fill_up(true);
  }
  // Whether a batch of so many rows is of another size than the last, as the runtime sees it.
  bool changes(std::int64_t rows) {
    const int bound = gpus.table().bindings;
    check_right(gpus, *lanes, 0, rows, 1);
    return gpus.table().bindings != bound;
  }

  Gpus gpus;
  std::shared_ptr<Runner> runner;
  std::unique_ptr<LaneExecutor> lanes;
};

}  // namespace

TEST_CASE("batches have the next size, or the last one's if that is not much more") {
  Setup setup;
  CHECK(setup.changes(3));  // to four
  CHECK_FALSE(setup.changes(4));
  CHECK_FALSE(setup.changes(3));
  CHECK_FALSE(setup.changes(2));
  CHECK_FALSE(setup.changes(1));
  CHECK(setup.changes(5));  // to eight
  CHECK_FALSE(setup.changes(3));
  CHECK(setup.changes(2));  // eight would be four times as many
  CHECK_FALSE(setup.changes(1));
  CHECK(setup.changes(9));  // more than any size: as it is
  setup.lanes->fill_up(false);
  CHECK(setup.changes(3));
  CHECK(setup.changes(2));
  CHECK(setup.changes(3));
}

TEST_CASE("a request in memory of the device by itself is used in place if it needs no more rows") {
  Setup setup;
  const servolley::testing::DeviceBytes memory(setup.gpus.gpu(), 4096);
  std::vector<float> values(16, 1.5F);
  std::memcpy(setup.gpus.standin.host_address(memory.data()), values.data(), 64);
  for (const std::int64_t rows : {2, 1}) {
    CAPTURE(rows);
    InputPart part{
        .view = {DType::kFp32, Shape{rows, 8}, memory.data(), static_cast<std::size_t>(rows) * 32}};
    part.on_device = true;
    const OutputPart target{.data = memory.data() + 1024, .capacity = 64};
    setup.gpus.standin.clear_log();
    const auto outputs =
        run(*setup.lanes, 0, {.parts = {&part, 1}, .rows = rows, .targets = {&target, 1}});
    CHECK(outputs[0].delivered == std::vector<bool>{true});
    // Up and down again, if it was filled up.
    CHECK(setup.gpus.standin.count("copy_on_device") == (rows == 2 ? 0 : 2));
    CHECK(std::memcmp(setup.gpus.standin.host_address(memory.data()) + 1024, values.data(),
                      part.view.bytes) == 0);
    std::memset(setup.gpus.standin.host_address(memory.data()) + 1024, 0, 64);
  }
}

TEST_CASE("a batch that fails filled up and not without ends that for the model") {
  const Log log;
  Setup setup;
  CHECK(setup.changes(4));
  setup.gpus.table().failing_runs = 1;
  check_right(setup.gpus, *setup.lanes, 0, 3, 1);
  REQUIRE(logged.size() == 1);
  CHECK(logged[0].starts_with("model 'm': batches are not filled up any more: "));
  CHECK(setup.changes(4));
  CHECK(setup.changes(3));
  CHECK(logged.size() == 1);
}

TEST_CASE("a batch that fails either way does not") {
  const Log log;
  Setup setup;
  CHECK(setup.changes(4));
  Parts bad(setup.gpus.pool, DType::kFp32, {8});
  bad.add(3, 1);
  setup.gpus.table().failing_runs = 3;  // filled up, as it is, and with outputs wherever they come
  CHECK(setup.lanes->launch(0, bad.batch()).code() == Code::kInternal);
  (void)setup.changes(4);
  CHECK_FALSE(setup.changes(3));
  CHECK(logged.empty());
}
