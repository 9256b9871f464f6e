// Outputs that clients want in memory of the GPU: copied there, or written there by the run.

#include <doctest/doctest.h>

#include "device/memory_of.h"
#include "runtime/gpu_fixture.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

constexpr std::int64_t kItems = 1000;
constexpr std::size_t kRowBytes = 4 * kItems;

struct Setup {
  explicit Setup(bool graphs = false) {
    OrtOptions options = gpus.options();
    options.cuda_graphs = graphs;
    runner = gpus.load("identity_fp32", options);
    lanes = Gpus::lanes(*runner, 1, graphs ? std::vector<std::int64_t>{4} : decltype(buckets){});
  }

  // What comes to the host; the targets have their rows then.
  OutputTensor run(const Parts& parts, std::vector<OutputPart> targets) {
    LaunchedBatch batch = parts.batch();
    batch.targets = targets;
    return run(batch);
  }
  OutputTensor run(const LaunchedBatch& batch) {
    gpus.standin.clear_log();
    std::vector<OutputTensor> outputs(1);
    REQUIRE(lanes->launch(0, batch).ok());
    REQUIRE(lanes->wait(0, outputs).ok());
    CHECK(outputs[0].view.shape[0] == batch.rows);
    return std::move(outputs[0]);
  }
  // Copies since the run began: from, to, and on the device.
  void check_copies(int to_host, int on_device) {
    CHECK(gpus.standin.count("copy_to_host") == to_host);
    CHECK(gpus.standin.count("copy_on_device") == on_device);
  }
  bool has(std::size_t offset, const TensorView& rows) {
    return std::memcmp(gpus.standin.host_address(memory.data()) + offset, rows.data, rows.bytes) ==
           0;
  }
  OutputPart target(std::size_t offset, std::size_t capacity) {
    return {.data = memory.data() + offset, .capacity = capacity};
  }

  Gpus gpus;
  std::vector<std::int64_t> buckets;
  std::shared_ptr<Runner> runner;
  std::unique_ptr<LaneExecutor> lanes;
  servolley::testing::DeviceBytes memory{gpus.gpu(), 64 << 10};
};

}  // namespace

TEST_CASE("rows that are wanted in pinned memory of the host come down there") {
  for (const bool graphs : {false, true}) {
    CAPTURE(graphs);
    Setup setup(graphs);
    std::byte* const pinned = setup.gpus.gpu().allocate_pinned(64 << 10);
    REQUIRE(pinned);
    Parts parts(setup.gpus.pool, DType::kFp32, {kItems});
    parts.add(1, 1).add(1, 20);
    const auto& rows = parts.parts();
    OutputTensor output = setup.run(
        parts, {{.data = pinned, .capacity = kRowBytes, .on_host = true}, setup.target(0, 99'999)});
    setup.check_copies(1, 1);
    CHECK(output.delivered == std::vector<bool>{true, true});
    CHECK(output.view.data == nullptr);
    CHECK(std::memcmp(pinned, rows[0].view.data, kRowBytes) == 0);
    CHECK(setup.has(0, rows[1].view));

    // One by itself is not written there by the run, which computes on the device.
    Parts alone(setup.gpus.pool, DType::kFp32, {kItems});
    alone.add(1, 7);
    output = setup.run(alone, {{.data = pinned + 8192, .capacity = kRowBytes, .on_host = true}});
    setup.check_copies(1, 0);
    CHECK(output.delivered == std::vector<bool>{true});
    CHECK(std::memcmp(pinned + 8192, alone.parts()[0].view.data, kRowBytes) == 0);
    setup.gpus.gpu().free_pinned(pinned);
  }
}

TEST_CASE("a batch's rows go where each of its requests wants them, the rest to the host") {
  for (const bool graphs : {false, true}) {
    CAPTURE(graphs);
    Setup setup(graphs);
    CHECK(setup.runner->gives_device_memory());
    Parts parts(setup.gpus.pool, DType::kFp32, {kItems});
    parts.add(1, 1).add(1, 20).add(1, 40).add(1, 60);
    const auto& rows = parts.parts();
    OutputTensor output =
        setup.run(parts, {setup.target(0, kRowBytes), {}, setup.target(8192, kRowBytes), {}});
    setup.check_copies(2, 2);
    CHECK(output.delivered == std::vector<bool>{true, false, true, false});
    CHECK(setup.has(0, rows[0].view));
    CHECK(setup.has(8192, rows[2].view));
    CHECK(std::memcmp(output.view.data + kRowBytes, rows[1].view.data, kRowBytes) == 0);
    CHECK(std::memcmp(output.view.data + 3 * kRowBytes, rows[3].view.data, kRowBytes) == 0);

    // Rows that are not wanted there come down together, with those for which there is no room.
    output = setup.run(parts, {{}, {}, setup.target(0, kRowBytes - 1), setup.target(0, 99'999)});
    setup.check_copies(1, 1);
    CHECK(output.delivered == std::vector<bool>{false, false, false, true});
    CHECK(setup.has(0, rows[3].view));
    for (std::size_t i = 0; i < 3; ++i) {
      CHECK(std::memcmp(output.view.data + i * kRowBytes, rows[i].view.data, kRowBytes) == 0);
    }

    // If all are, nothing does.
    output = setup.run(parts, {setup.target(4, kRowBytes), setup.target(8192, kRowBytes),
                               setup.target(16384, kRowBytes), setup.target(24576, kRowBytes)});
    setup.check_copies(0, 4);
    CHECK(output.view.data == nullptr);
    CHECK_FALSE(output.owner);
    CHECK(setup.has(4, rows[0].view));
    CHECK(setup.has(24576, rows[3].view));
    CHECK(setup.run(parts, {}).delivered.empty());
    setup.check_copies(1, 0);
  }
}

TEST_CASE("a request by itself is written in place, unless something speaks against it") {
  Setup setup;
  Parts parts(setup.gpus.pool, DType::kFp32, {kItems});
  parts.add(2, 7);
  const InputPart& row = parts.parts()[0];
  const std::size_t bytes = 2 * kRowBytes;
  OutputTensor output = setup.run(parts, {setup.target(0, bytes)});
  setup.check_copies(0, 0);
  CHECK(output.delivered_to(0));
  CHECK(output.view.bytes == bytes);
  CHECK(setup.has(0, row.view));
  // The next one does not go there.
  Parts others(setup.gpus.pool, DType::kFp32, {kItems});
  others.add(2, 30);
  output = setup.run(others, {});
  setup.check_copies(1, 0);
  CHECK(std::memcmp(output.view.data, others.parts()[0].view.data, bytes) == 0);
  CHECK(setup.has(0, row.view));

  SUBCASE("an address that kernels do not take") {
    setup.run(parts, {setup.target(8192 + 4, bytes)});
    setup.check_copies(0, 1);
    CHECK(setup.has(8192 + 4, row.view));
  }
  SUBCASE("too little room") {
    output = setup.run(others, {setup.target(0, bytes - 1)});
    setup.check_copies(1, 0);
    CHECK(output.delivered.empty());
    CHECK(setup.has(0, row.view));
  }
  SUBCASE("an input that lies there") {
    // Of the row at 0 the second half is written over, once it has been read.
    const InputPart there{.view = {DType::kFp32, {2, kItems}, setup.memory.data(), bytes},
                          .on_device = true};
    for (const std::size_t offset : {std::size_t{0}, std::size_t{4096}, std::size_t{8192}}) {
      const OutputPart target = setup.target(offset, bytes);
      setup.run({.parts = {&there, 1}, .requests = 1, .rows = 2, .targets = {&target, 1}});
      setup.check_copies(0, offset < 8000 ? 1 : 0);
      if (offset == 4096) CHECK(setup.has(4096, row.view));
    }
  }
}

TEST_CASE("a graph has its own addresses: the GPU copies") {
  Setup setup(true);
  Parts parts(setup.gpus.pool, DType::kFp32, {kItems});
  parts.add(2, 7);
  setup.run(parts, {setup.target(0, 2 * kRowBytes)});
  setup.check_copies(0, 1);
  CHECK(setup.has(0, parts.parts()[0].view));
}

TEST_CASE("outputs whose size the data decides are copied to where they are wanted") {
  Setup setup;
  setup.gpus.table().waits = true;
  auto runner = setup.gpus.load("nonzero");
  auto lanes = Gpus::lanes(*runner, 1);
  const std::vector<float> some = {0, 1, 1, 0};
  const InputPart part{.view = floats({2, 2}, some)};
  for (const std::size_t room : {32, 31}) {
    const OutputPart target = setup.target(0, room);
    std::vector<OutputTensor> outputs(1);
    REQUIRE(
        lanes->launch(0, {.parts = {&part, 1}, .requests = 1, .rows = 0, .targets = {&target, 1}})
            .ok());
    REQUIRE(lanes->wait(0, outputs).ok());
    CHECK(outputs[0].view.bytes == 32);
    CHECK(outputs[0].delivered_to(0) == (room == 32));
  }
  const std::vector<std::int64_t> hits = {0, 1, 1, 0};
  CHECK(std::memcmp(setup.gpus.standin.host_address(setup.memory.data()), hits.data(), 32) == 0);
}
