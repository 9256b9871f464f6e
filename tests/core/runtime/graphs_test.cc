#include "runtime/graphs.h"

#include <doctest/doctest.h>

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

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
    CHECK(gpus.table().graph_runs == Ids{1, -1, -1});
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
  Gpus gpus;
  CHECK(gpus.load("identity_fp32")->graphs() == GraphUse::kOff);
}
