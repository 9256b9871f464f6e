#include "runtime/graphs.h"

#include <doctest/doctest.h>

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

TEST_CASE("every lane replays a graph for every bucket, with addresses that do not change") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  CHECK(runner->graphs() == GraphUse::kNotYet);
  CHECK(gpus.table().cuda_options["enable_cuda_graph"] == "1");
  auto lanes = Gpus::lanes(*runner, 2, {1, 4, 8});
  CHECK(runner->graphs() == GraphUse::kNotYet);
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

TEST_CASE("what a batch is filled up with are zeros, or rows of another") {
  for (const bool graphs : {false, true}) {
    CAPTURE(graphs);
    Gpus gpus;
    OrtOptions options = gpus.options();
    options.cuda_graphs = graphs;
    auto runner = gpus.load("identity_fp32", options);
    auto lanes = Gpus::lanes(*runner, 1, {4});
    check_right(gpus, *lanes, 0, 4, 1);  // whether or not the first batch is filled up itself
    CHECK(gpus.standin.count("fill") == 1);
    lanes->fill_up(true);
    check_right(gpus, *lanes, 0, 2, 1);
    CHECK(gpus.standin.count("fill") == 1);
  }
}

TEST_CASE("releases that replay with what others have overwritten run without graphs") {
  Log log;
  Gpus gpus(1, "1.30.2");
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  CHECK(runner->graphs() == GraphUse::kRefused);
  CHECK_FALSE(gpus.table().cuda_options.contains("enable_cuda_graph"));
  REQUIRE(logged.size() == 1);
  CHECK(logged[0].find("before ONNX Runtime 1.31") != std::string::npos);
}

TEST_CASE("what fits no graph runs without, and the log says so once") {
  Log log;
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 2, {2, 4});
  check_right(gpus, *lanes, 0, 2, 1);
  CHECK(logged.empty());
  check_right(gpus, *lanes, 0, 5, 1);      // larger than every bucket
  check_right(gpus, *lanes, 0, 2, 1, 16);  // of another shape than the graph
  check_right(gpus, *lanes, 0, 4, 1, 16);  // which is that of every graph to come, in any lane
  check_right(gpus, *lanes, 1, 2, 1, 16);
  check_right(gpus, *lanes, 0, 1, 1);
  check_right(gpus, *lanes, 1, 3, 1);
  CHECK(gpus.table().graph_runs == Ids{0, -1, -1, -1, -1, 0, 3});
  CHECK(runner->graphs() == GraphUse::kOn);
  REQUIRE(logged.size() == 1);
  CHECK(logged[0] ==
        "model 'm': batches that fit none of its CUDA graphs run without: 'INPUT0' [5,8] "
        "(captured: [-1,8])");
}

TEST_CASE("shapes that were guessed are not captured, and do not settle those of the graphs") {
  Log log;
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {1, 2});
  const auto guess = [&](std::int64_t rows, std::int64_t items) {
    Parts zeros(gpus.pool, DType::kFp32, {items});
    zeros.add(rows, 0);
    LaunchedBatch batch = zeros.batch();
    batch.may_capture = false;
    run(*lanes, 0, batch);
  };
  guess(1, 1);
  guess(2, 1);
  CHECK(runner->graphs() == GraphUse::kNotYet);
  check_right(gpus, *lanes, 0, 2, 1);
  guess(1, 8);
  guess(2, 8);
  check_right(gpus, *lanes, 0, 1, 1);
  CHECK(gpus.table().graph_runs == Ids{-1, -1, 1, -1, 1, 0});
  CHECK(runner->graphs() == GraphUse::kOn);
  CHECK(logged.empty());
}

TEST_CASE("a model without a batch dimension has one graph in each lane") {
  Log log;
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 2);
  const auto whole = [&](int lane, std::int64_t first, std::int64_t second) {
    Parts parts(gpus.pool, DType::kFp32, {second});
    parts.add(first, 3);
    LaunchedBatch batch = parts.batch();
    batch.rows = 0;
    std::vector<std::byte> bytes;
    const TensorView views[] = {parts.whole(bytes)};
    check_same(run(*lanes, lane, batch), gpus.on_cpu("identity_fp32", views, 0));
  };
  for (int lane = 0; lane < 2; ++lane) whole(lane, 3, 8);
  for (int lane = 0; lane < 2; ++lane) whole(lane, 3, 8);
  CHECK(logged.empty());
  whole(0, 2, 8);
  whole(0, 3, 9);
  CHECK(gpus.table().graph_runs == Ids{0, 1, 0, 1, -1, -1});
  CHECK(runner->graphs() == GraphUse::kOn);
  CHECK(logged.size() == 1);
}

TEST_CASE("models that cannot be captured run without, and the log says so once") {
  Log log;
  {
    Gpus gpus;
    gpus.table().refuse_graphs = true;
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
    gpus.table().capture = CudaTable::Capture::kRefused;
    auto runner = gpus.load("identity_fp32", with_graphs(gpus));
    auto lanes = Gpus::lanes(*runner, 2, {1, 2});
    for (int lane = 0; lane < 2; ++lane) check_right(gpus, *lanes, lane, 2, 1);
    CHECK(runner->graphs() == GraphUse::kRefused);
    CHECK(gpus.table().graph_runs == Ids{1, -1, 3, -1});
    CHECK(logged.size() == 1);
    // Nothing else has changed: outputs have their places, and are bound once.
    const int bound = gpus.table().bindings;
    for (int lane = 0; lane < 2; ++lane) check_right(gpus, *lanes, lane, 2, 7);
    CHECK(gpus.table().bindings == bound);
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
  logged.clear();
  {
    // Outputs that are not as declared.
    Gpus gpus;
    gpus.table().waits = true;
    auto runner = gpus.load("misnamed_output", with_graphs(gpus));
    auto lanes = Gpus::lanes(*runner, 1, {2});
    const std::vector<float> values = {1, 2, 3, 4};
    const InputPart part{.view = floats({2, 2}, values)};
    for (int i = 0; i < 2; ++i) {
      run(*lanes, 0, {.parts = {&part, 1}, .requests = 1, .rows = 2});
    }
    CHECK(runner->graphs() == GraphUse::kRefused);
    CHECK(logged.size() == 1);
  }
  Gpus gpus;
  CHECK(gpus.load("identity_fp32")->graphs() == GraphUse::kOff);
}
