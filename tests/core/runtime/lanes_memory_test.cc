// What lanes keep of the memory that their batches have needed.

#include <doctest/doctest.h>

#include "runtime/graphs.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

constexpr std::size_t kMegabyte = std::size_t{1} << 20;

}  // namespace

TEST_CASE("after one large batch and many small ones the memory is back; graphs keep theirs") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {1});
  check_right(gpus, *lanes, 0, 1, 1, 500'000);  // a graph with two times 2 MB
  const std::size_t captured = gpus.device_pool().stats().in_use_bytes;
  CHECK(captured >= 4'000'000);
  const auto host_memory = [&] { return gpus.pool.stats().in_use_bytes; };
  const std::size_t on_host = host_memory();
  {
    // Two times 32 MB, and as much in the block that unpinned requests go up from.
    const std::vector<float> values(4 * kMegabyte, 1.0F);
    const InputPart parts[] = {{.view = floats({1, 4 * kMegabyte}, values)},
                               {.view = floats({1, 4 * kMegabyte}, values)}};
    run(*lanes, 0, {.parts = parts, .requests = 2, .rows = 2});
  }
  CHECK(gpus.device_pool().stats().in_use_bytes >= captured + 64 * kMegabyte);
  CHECK(host_memory() >= on_host + 32 * kMegabyte);
  const auto frees = [&] {
    return gpus.standin.count("cuMemFree_v2") + gpus.standin.count("cuMemFreeHost");
  };
  const int freed = frees();
  Parts small(gpus.pool, DType::kFp32, {8});
  small.add(2, 1);
  for (int i = 0; i < 600; ++i) run(*lanes, 0, small.batch());
  CHECK(gpus.device_pool().stats().in_use_bytes <= captured + kMegabyte);
  CHECK(host_memory() <= on_host + kMegabyte);
  CHECK(frees() == freed);  // that would wait for the device
  check_right(gpus, *lanes, 0, 2, 3);
  const int bound = gpus.table().bindings;
  check_right(gpus, *lanes, 0, 1, 3, 500'000);
  CHECK(gpus.table().bindings == bound);
  CHECK(gpus.table().graph_runs.back() == 0);
}

TEST_CASE("batches that are large now and then keep their memory") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32");
  auto lanes = Gpus::lanes(*runner, 1);
  Parts large(gpus.pool, DType::kFp32, {1'000'000});
  large.add(1, 1);
  Parts small(gpus.pool, DType::kFp32, {8});
  small.add(1, 1);
  run(*lanes, 0, large.batch());
  const auto leased = gpus.device_pool().stats().in_use_bytes;
  for (int i = 1; i < 600; ++i) {
    run(*lanes, 0, i % 100 == 0 ? large.batch() : small.batch());
    REQUIRE(gpus.device_pool().stats().in_use_bytes == leased);
  }
}

TEST_CASE("when a model's graphs are refused each lane gives their memory back") {
  const Log log;
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 2, {1, 4});
  for (const std::int64_t rows : {4, 1}) {
    for (int lane = 0; lane < 2; ++lane) check_right(gpus, *lanes, lane, rows, 1, 100'000);
  }
  CHECK(gpus.device_pool().stats().in_use_bytes >= 4 * 1'600'000);
  gpus.table().failing_replays = 1;
  for (int round = 0; round < 2; ++round) {
    for (int lane = 0; lane < 2; ++lane) check_right(gpus, *lanes, lane, 1, 1, 100'000);
  }
  CHECK(runner->graphs() == GraphUse::kRefused);
  CHECK(gpus.device_pool().stats().in_use_bytes < 2 * 1'600'000);  // a row for each lane
  CHECK(gpus.table().graph_runs == Ids{1, 3, 0, 2, 0, -1, -1, -1, -1});
}
