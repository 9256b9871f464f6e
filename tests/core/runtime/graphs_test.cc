#include <doctest/doctest.h>

#include "runtime/gpu_fixture.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

std::vector<std::string> logged;

// Collects what the runtime logs while it lives.
struct Log {
  Log() {
    logged.clear();
    set_log_sink([](int, std::string_view line) { logged.emplace_back(line); });
  }
  ~Log() { set_log_sink(nullptr); }
};

OrtOptions with_graphs(Gpus& gpus) {
  OrtOptions options = gpus.options();
  options.cuda_graphs = true;
  return options;
}

std::vector<OutputTensor> run(LaneExecutor& lanes, int lane, const LaunchedBatch& batch) {
  std::vector<OutputTensor> outputs(1);
  Status status = lanes.launch(lane, batch);
  REQUIRE_MESSAGE(status.ok(), status.message());
  status = lanes.wait(lane, outputs);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return outputs;
}

void check_right(Gpus& gpus, LaneExecutor& lanes, int lane, std::int64_t rows, int start,
                 std::int64_t items = 8) {
  Parts parts(gpus.pool, DType::kFp32, {items});
  for (std::int64_t i = 0; i < rows; ++i) parts.add(1, start + static_cast<int>(i));
  std::vector<std::byte> bytes;
  const TensorView whole[] = {parts.whole(bytes)};
  check_same(run(lanes, lane, parts.batch()), gpus.on_cpu("identity_fp32", whole, rows));
}

using Ids = std::vector<int>;

}  // namespace

TEST_CASE("every lane replays a graph for every bucket, with addresses that do not change") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  CHECK(runner->graphs() == GraphUse::kOn);
  CHECK(gpus.table().cuda_options["enable_cuda_graph"] == "1");
  auto lanes = Gpus::lanes(*runner, 2, {1, 4, 8});
  for (const std::int64_t rows : {8, 4, 1}) {
    for (int lane = 0; lane < 2; ++lane) check_right(gpus, *lanes, lane, rows, 1);
  }
  CHECK(gpus.table().graph_runs == Ids{2, 5, 1, 4, 0, 3});
  gpus.table().graph_runs.clear();
  const int bound = gpus.table().bindings;
  const auto leased = gpus.device_pool().stats().in_use_bytes;
  // Batches between the buckets are filled up, and what they are filled with is seen by nobody.
  for (const std::int64_t rows : {1, 2, 3, 4, 5, 8}) check_right(gpus, *lanes, 0, rows, 9);
  CHECK(gpus.table().graph_runs == Ids{0, 1, 1, 1, 2, 2});
  CHECK(gpus.table().bindings == bound);
  CHECK(gpus.device_pool().stats().in_use_bytes == leased);
}

TEST_CASE("what fits no graph runs without") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {2});
  check_right(gpus, *lanes, 0, 2, 1);
  check_right(gpus, *lanes, 0, 3, 1);      // larger than every bucket
  check_right(gpus, *lanes, 0, 2, 1, 16);  // of another shape than the graph
  check_right(gpus, *lanes, 0, 1, 1);
  CHECK(gpus.table().graph_runs == Ids{0, -1, -1, 0});
  CHECK(runner->graphs() == GraphUse::kOn);
}

TEST_CASE("models that cannot be captured run without, and the log says so once") {
  Log log;
  {
    Gpus gpus;
    gpus.table().refuse_graphs = "yes";
    auto runner = gpus.load("identity_fp32", with_graphs(gpus));
    CHECK(runner->graphs() == GraphUse::kRefused);
    auto lanes = Gpus::lanes(*runner, 2, {1, 2});
    check_right(gpus, *lanes, 0, 1, 1);
    check_right(gpus, *lanes, 1, 2, 1);
    CHECK(gpus.table().graph_runs == Ids{-1, -1});
    CHECK(logged.size() == 1);
    CHECK(logged.at(0).starts_with("model 'm': no CUDA graphs: "));
  }
  logged.clear();
  {
    Gpus gpus;
    gpus.table().refuse_capture = "yes";
    auto runner = gpus.load("identity_fp32", with_graphs(gpus));
    auto lanes = Gpus::lanes(*runner, 2, {1, 2});
    for (int lane = 0; lane < 2; ++lane) check_right(gpus, *lanes, lane, 2, 1);
    CHECK(runner->graphs() == GraphUse::kRefused);
    CHECK(gpus.table().graph_runs == Ids{1, -1, -1});
    CHECK(logged.size() == 1);
  }
  logged.clear();
  {
    // An output without an address.
    Gpus gpus;
    gpus.table().waits = true;
    auto runner = gpus.load("nonzero", with_graphs(gpus));
    auto lanes = Gpus::lanes(*runner, 1, {1});
    CHECK(runner->graphs() == GraphUse::kRefused);
    const std::vector<float> values = {0, 1, 1, 0};
    const InputPart part{.view = floats({2, 2}, values)};
    run(*lanes, 0, {.parts = {&part, 1}, .requests = 1, .rows = 0});
    CHECK(logged.size() == 1);
  }
  Gpus gpus;
  CHECK(gpus.load("identity_fp32")->graphs() == GraphUse::kOff);
}
