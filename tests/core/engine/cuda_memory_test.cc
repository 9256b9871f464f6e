// Tensors in clients' memory on a GPU: read where they lie by a model that runs there, copied by
// the driver for all others.

#include "cuda_memory.h"

#include <doctest/doctest.h>

namespace servolley::engine {
namespace {

TEST_CASE("for a model on the CPU the driver copies in and out") {
  Setup setup;
  setup.serve_on_cpu();
  const std::vector<std::byte> row{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  REQUIRE((*setup.engine.regions().find("r"))->write(100, row).ok());
  setup.send("cpu", 100);
  const Answer answer = setup.answer();
  REQUIRE(answer.status == 200);
  CHECK(answer.body.find(R"("shared_memory_region":"r","shared_memory_offset":512)") !=
        std::string::npos);
  for (int i = 0; i < 4; ++i) CHECK(setup.at(512 + static_cast<std::size_t>(i)) == i + 1);
  CHECK(setup.at(516) == 7);
  // Bounds are those of any region.
  setup.send("cpu", kBytes - 3);
  CHECK(setup.answer().status == 400);
}

TEST_CASE("a model on that GPU reads it where it lies") {
  Setup setup;
  setup.serve_on_gpu();
  setup.standin.clear_log();
  setup.send("gpu", 100);
  REQUIRE(setup.answer().status == 200);
  REQUIRE(setup.seen.parts.size() == 1);
  CHECK(setup.seen.parts[0].on_device);
  CHECK(setup.seen.parts[0].view.data == (*setup.engine.regions().find("r"))->device_data() + 100);
  CHECK(setup.standin.count("cuMemcpyDtoHAsync_v2") == 0);
  CHECK(setup.at(512) == 8);
  CHECK(setup.engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("a model on another GPU gets a copy") {
  Setup setup;
  setup.serve_on_gpu({DeviceKind::kCuda, 1});
  setup.send("gpu", 100);
  REQUIRE(setup.answer().status == 200);
  REQUIRE(setup.seen.parts.size() == 1);
  CHECK_FALSE(setup.seen.parts[0].on_device);
  CHECK(setup.at(512) == 8);
}

TEST_CASE("a region stays mapped while a batch reads it, and until the answer is written") {
  Setup setup;
  setup.serve_on_gpu();
  setup.device.hold();
  setup.send("gpu", 0);
  REQUIRE(setup.device.await_launches(1).size() == 1);
  setup.engine.regions().remove_all(DeviceKind::kCuda);
  CHECK(setup.engine.regions().usage().regions == 1);
  CHECK(setup.standin.alive("mappings") == 1);
  setup.device.release();
  CHECK(setup.answer().status == 200);
  CHECK(setup.engine.regions().usage().regions == 0);
  CHECK(setup.standin.alive("mappings") == 0);
  setup.send("gpu", 0);
  CHECK(setup.answer().status == 404);
}

TEST_CASE("the loop waits for no GPU: whoever runs the model copies in and out") {
  for (const bool on_cpu : {true, false}) {
    CAPTURE(on_cpu);
    Setup setup;
    if (on_cpu) {
      setup.serve_on_cpu(Execution::kThreads);
    } else {
      setup.serve_on_gpu({DeviceKind::kCuda, 1});
    }
    setup.standin.clear_log();
    setup.send(on_cpu ? "cpu" : "gpu", 100);
    REQUIRE(setup.answer().status == 200);
    CHECK(setup.waits_elsewhere() >= 2);
    CHECK(setup.at(512) == (on_cpu ? 7 : 8));
    CHECK(setup.standin.count("copy_to_host") == 1);
    CHECK(setup.standin.count("copy_to_device") == 1);
    // What does not fit is said as ever, and a device that breaks meanwhile is an error.
    setup.send(on_cpu ? "cpu" : "gpu", 100, 3);
    CHECK(setup.answer().status == 400);
    constexpr int kIllegalAddress = 700;
    setup.standin.fail("copy_to_host", kIllegalAddress);
    setup.send(on_cpu ? "cpu" : "gpu", 100);
    CHECK(setup.answer().status == 500);
    CHECK(setup.engine.in_flight() == 0);
    CHECK(setup.engine.pool().stats().in_use_bytes == 0);
  }
}

TEST_CASE("handles that are none, and devices that are not there") {
  Setup setup;
  std::vector<std::byte> random(64, std::byte{0x5a});
  CHECK(setup.engine.open_cuda_memory(0, random, 1).error().code() == Code::kInvalidArgument);
  for (const std::size_t size : {0, 63, 65}) {
    CHECK(setup.engine.open_cuda_memory(0, std::vector<std::byte>(size), 1).error().code() ==
          Code::kInvalidArgument);
  }
  for (const std::int64_t device : {std::int64_t{-1}, std::int64_t{1} << 40}) {
    CHECK(setup.engine.open_cuda_memory(device, setup.exporter.handle, 1).error().code() ==
          Code::kInvalidArgument);
  }
  CHECK(setup.engine.open_cuda_memory(999, setup.exporter.handle, 1).error().code() ==
        Code::kFailedPrecondition);
  CHECK(setup.engine.open_cuda_memory(0, setup.exporter.handle, kBytes + 1).error().code() ==
        Code::kInvalidArgument);
  // The context is as good as before.
  setup.serve_on_cpu();
  setup.send("cpu", 0);
  CHECK(setup.answer().status == 200);

  EngineOptions options;
  options.cuda_library = "libno_such_driver.so.1";
  Engine without(options);
  CHECK(without.open_cuda_memory(0, random, 1).error().code() == Code::kFailedPrecondition);
}

}  // namespace
}  // namespace servolley::engine
