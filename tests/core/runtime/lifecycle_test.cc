#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>
#include <thread>

#include "runtime/fixture.h"
#include "runtime/ort/ort_session.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

std::size_t resident_kib() {
  std::ifstream status("/proc/self/status");
  std::string word;
  std::size_t kib = 0;
  while (status >> word) {
    if (word == "VmRSS:" && status >> kib) return kib;
  }
  return 0;
}

}  // namespace

TEST_CASE("loading and unloading 50 MB thirty times leaves the memory where it was") {
  Runtime runtime;
  std::size_t after_third = 0;
  std::size_t loaded = 0;
  for (int cycle = 1; cycle <= 30; ++cycle) {
    {
      auto runner = runtime.load("heavy");
      auto executor = Runtime::executor_of(*runner);
      const std::vector<float> row(256, 1);
      const TensorView inputs[] = {floats({1, 256}, row)};
      std::vector<OutputTensor> outputs(1);
      REQUIRE(executor->run(inputs, 1, outputs).ok());
      if (cycle == 3) loaded = resident_kib();
    }
    if (cycle == 3) after_third = resident_kib();
  }
  const std::size_t at_the_end = resident_kib();
  MESSAGE("resident KiB: loaded " << loaded << ", after cycle 3 " << after_third
                                  << ", after cycle 30 " << at_the_end);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  CHECK(loaded > after_third + 40'000);  // the weights were there and are gone
#endif
  CHECK(at_the_end < after_third + after_third / 10);
}

TEST_CASE("executors of several threads share one session and do not disturb each other") {
  Runtime runtime;
  const auto runner = runtime.load("half_plus_two");
  std::atomic<int> wrong{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        auto executor = runner->create_executor();
        if (!executor) {
          wrong.fetch_add(1);
          return;
        }
        for (int i = 0; i < 500; ++i) {
          const std::vector<float> x(static_cast<std::size_t>(i % 7 + 1),
                                     static_cast<float>(t * 1000 + i));
          std::vector<OutputTensor> outputs(1);
          const TensorView inputs[] = {floats({static_cast<std::int64_t>(x.size())}, x)};
          if (!(*executor)->run(inputs, inputs[0].shape[0], outputs).ok() ||
              values_of<float>(outputs[0]) != std::vector<float>(x.size(), 0.5F * x[0] + 2.0F)) {
            wrong.fetch_add(1);
          }
        }
      });
    }
  }
  CHECK(wrong.load() == 0);
  CHECK(runtime.pool.stats().in_use_bytes == 0);
}

TEST_CASE("an executor keeps its model alive") {
  Runtime runtime;
  auto executor = runtime.executor("tiny");  // the runner is gone already
  runtime.library.reset();
  std::vector<OutputTensor> outputs(1);
  const std::vector<float> row(16, 1);
  const TensorView inputs[] = {floats({1, 16}, row)};
  CHECK(executor->run(inputs, 1, outputs).ok());
}

// Not a test of right or wrong: prints what run() adds to the bare session. Run it with
//   runtime_tests --no-skip -tc="measure*"
TEST_CASE("measure run() against the bare session" * doctest::skip()) {
  auto opened = open_table(library_path());
  REQUIRE(opened);
  auto library = Library::create(opened->functions, opened->version);
  REQUIRE(library);
  Pool pool(cpu_device(), {});
  OrtOptions options;
  options.pool = &pool;
  options.intra_op_threads = 1;
  auto model = LoadedModel::load(*library, model_path("tiny"), options);
  REQUIRE(model);
  auto runner = load_model(*library, model_path("tiny"), options);
  REQUIRE(runner);
  const abi::Functions& api = opened->functions;
  // Short rounds, so that some of them run undisturbed also on a busy machine.
  const auto round_ns = [](auto&& once) {
    constexpr int kRuns = 100;
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < kRuns; ++i) once();
    const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - start;
    return took.count() / kRuns;
  };
  for (const std::int64_t rows : {1, 64}) {
    const std::size_t elements = static_cast<std::size_t>(rows) * 16;
    std::vector<float> in(elements, 1);
    std::vector<float> in2(elements, 1);
    std::vector<float> out(elements);
    const std::int64_t dims[] = {rows, 16};
    const auto wrap = [&](std::vector<float>& data) {
      abi::Value* value = nullptr;
      REQUIRE_FALSE(api.wrap_tensor((*library)->cpu_memory(), data.data(), elements * 4, dims, 2,
                                    abi::kFloat, &value));
      return own(value, api.release_value);
    };
    const auto x = wrap(in);
    const auto y = wrap(out);
    abi::Binding* raw = nullptr;
    REQUIRE_FALSE(api.create_binding((*model)->session(), &raw));
    const auto binding = own(raw, api.release_binding);
    REQUIRE_FALSE(api.bind_input(raw, "INPUT0", x.get()));
    REQUIRE_FALSE(api.bind_output(raw, "OUTPUT0", y.get()));
    auto executor = Runtime::executor_of(**runner);
    std::vector<OutputTensor> outputs(1);
    std::array<OutputTensor, 2> kept;
    const TensorView same[] = {floats({rows, 16}, in)};
    const TensorView other[] = {floats({rows, 16}, in2)};
    bool flip = false;
    double bare = 1e18;
    double warm = 1e18;
    double moving = 1e18;
    // In turn, so that a disturbance meets all three alike.
    for (int round = 0; round < 5000; ++round) {
      bare = std::min(
          bare, round_ns([&] { (void)api.run_with_binding((*model)->session(), nullptr, raw); }));
      warm = std::min(warm, round_ns([&] {
                        outputs[0] = {};
                        (void)executor->run(same, rows, outputs);
                      }));
      moving = std::min(moving, round_ns([&] {
                          flip = !flip;  // both addresses change with every run
                          (void)executor->run(flip ? same : other, rows,
                                              std::span(&kept[flip ? 0 : 1], 1));
                        }));
    }
    std::printf(
        "rows %2lld: bare session %.0f ns, run() %.0f ns (+%.0f), all addresses new %.0f ns "
        "(+%.0f)\n",
        static_cast<long long>(rows), bare, warm, warm - bare, moving, moving - bare);
  }
}
