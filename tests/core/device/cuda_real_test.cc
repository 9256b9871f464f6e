// What the device room promises, on the driver that the machine's libcuda.so.1 is: on the stand-in
// where that is the first to be found, on NVIDIA's own where there is a GPU
// (tests/core/test_core.py runs it on both). Skipped where nobody asks, because most machines have
// neither.

#include <doctest/doctest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "cuda_exporter.h"
#include "device/cuda/driver.h"
#include "device/cuda/gpu.h"
#include "device/cuda/ipc_memory.h"
#include "memory_of.h"

using namespace servolley;
using namespace servolley::testing;

namespace {

constexpr const char* kLibrary = "libcuda.so.1";
constexpr std::size_t kBytes = std::size_t{8} << 20;

std::shared_ptr<cuda::Gpu> first_gpu() {
  auto driver = cuda::Driver::open(kLibrary);
  REQUIRE_MESSAGE(driver, driver.error().message());
  auto gpu = (*driver)->gpu(0);
  REQUIRE_MESSAGE(gpu, gpu.error().message());
  return std::move(*gpu);
}

}  // namespace

TEST_CASE("machine's driver: devices are described" * doctest::skip()) {
  const auto driver = cuda::Driver::open(kLibrary);
  REQUIRE_MESSAGE(driver, driver.error().message());
  CHECK((*driver)->version() >= cuda::Driver::kOldestVersion);
  const auto devices = (*driver)->devices();
  REQUIRE(devices);
  REQUIRE(static_cast<int>(devices->size()) == (*driver)->device_count());
  for (const auto& device : *devices) {
    MESSAGE("cuda:" << device.index << " " << device.name << " " << device.uuid << " "
                    << device.total_bytes << " bytes, compute capability " << device.compute_major
                    << "." << device.compute_minor);
    CHECK(device.name != "");
    CHECK(device.uuid.size() == std::strlen("GPU-00000000-0000-0000-0000-000000000000"));
    CHECK(device.total_bytes > 0);
    CHECK(device.compute_major > 0);
  }
  CHECK_FALSE((*driver)->gpu(999));
}

TEST_CASE("machine's driver: bytes go up, across and down in order" * doctest::skip()) {
  const auto gpu = first_gpu();
  auto up = gpu->create_stream();
  auto down = gpu->create_stream();
  auto event = gpu->create_event();
  REQUIRE(up);
  REQUIRE(down);
  REQUIRE(event);
  const auto before = gpu->memory();
  REQUIRE(before);
  CHECK(before->free_bytes <= before->total_bytes);
  const DeviceBytes a(*gpu, kBytes);
  const DeviceBytes b(*gpu, kBytes);
  const PinnedBytes in(*gpu, kBytes, 7);
  const PinnedBytes out(*gpu, kBytes);
  for (int round = 0; round < 10; ++round) {
    std::memset(in.data(), round, kBytes);
    CHECK(up->fill(a.data(), std::byte{0xff}, kBytes).ok());
    CHECK(up->copy_to_device(a.data(), in.data(), kBytes).ok());
    CHECK(up->copy_on_device(b.data(), a.data(), kBytes).ok());
    CHECK(up->record(*event).ok());
    CHECK(down->wait(*event).ok());
    CHECK(down->copy_to_host(out.data(), b.data(), kBytes).ok());
    CHECK(down->record(*event).ok());
    CHECK(event->wait().ok());
    CHECK(*event->done());
    CHECK(out.all(round));
  }
  bool called = false;
  CHECK(up->launch_host([](void* flag) { *static_cast<bool*>(flag) = true; }, &called).ok());
  CHECK(up->synchronize().ok());
  CHECK(called);
  CHECK(*up->idle());
}

TEST_CASE("machine's driver: any thread, and the host goes on meanwhile" * doctest::skip()) {
  const auto gpu = first_gpu();
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      auto stream = gpu->create_stream();
      auto event = gpu->create_event(t % 2 ? cuda::EventWait::kSpin : cuda::EventWait::kSleep);
      const DeviceBytes device(*gpu, kBytes);
      const PinnedBytes in(*gpu, kBytes, t);
      const PinnedBytes out(*gpu, kBytes);
      CHECK(stream->copy_to_device(device.data(), in.data(), kBytes).ok());
      CHECK(stream->copy_to_host(out.data(), device.data(), kBytes).ok());
      CHECK(stream->record(*event).ok());
      CHECK(event->wait().ok());
      CHECK(out.all(t));
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST_CASE("machine's driver: having no more memory is no harm" * doctest::skip()) {
  const auto gpu = first_gpu();
  const auto memory = gpu->memory();
  REQUIRE(memory);
  CHECK(gpu->allocate(memory->total_bytes + 1).data == nullptr);
  CHECK_FALSE(gpu->broken());
  const DeviceBytes some(*gpu, kBytes);
}

TEST_CASE("machine's driver: memory of another process" * doctest::skip()) {
  const auto gpu = first_gpu();
  Exporter exporter(kLibrary, kBytes, 42);
  {
    const auto memory = gpu->open_ipc(exporter.handle, kBytes);
    REQUIRE_MESSAGE(memory, memory.error().message());
    const auto again = gpu->open_ipc(exporter.handle, 1);
    REQUIRE(again);
    auto stream = gpu->create_stream();
    REQUIRE(stream);
    const PinnedBytes out(*gpu, kBytes);
    CHECK(stream->copy_to_host(out.data(), (*memory)->data(), kBytes).ok());
    CHECK(stream->synchronize().ok());
    CHECK(out.all(42));
    CHECK(stream->fill((*again)->data(), std::byte{43}, kBytes).ok());
    CHECK(stream->synchronize().ok());
  }
  // More than there is, noise, and a handle of the wrong length.
  CHECK_FALSE(gpu->open_ipc(exporter.handle, std::size_t{1} << 40));
  IpcHandle noise{};
  noise.fill(std::byte{0x5a});
  const auto none = gpu->open_ipc(noise, 1);
  REQUIRE_FALSE(none);
  CHECK(none.error().code() == Code::kInvalidArgument);
  CHECK_FALSE(gpu->open_ipc(std::span(noise).first(63), 1));
  CHECK(gpu->probe().ok());
  CHECK(exporter.end() == 43);
}
