#include <cuda.h>

#include <random>
#include <vector>

#include "cuda_exporter.h"
#include "cuda_fixture.h"
#include "device/cuda/ipc_memory.h"

using namespace servolley;
using namespace servolley::testing;

TEST_CASE("memory of another process is read and written in place, and unmapped at the end") {
  CudaFixture cuda("guard=1");
  constexpr std::size_t kBytes = 100'000;
  Exporter exporter(Standin::path(), kBytes, 42);
  {
    const auto memory = cuda.gpu->open_ipc(exporter.handle, kBytes);
    REQUIRE(memory);
    CHECK((*memory)->size() == kBytes);
    CHECK((*memory)->gpu() == cuda.gpu);
    auto stream = cuda.stream();
    const PinnedBytes out(*cuda.gpu, kBytes);
    CHECK(stream.copy_to_host(out.data(), (*memory)->data(), kBytes).ok());
    CHECK(stream.synchronize().ok());
    CHECK(out.all(42));
    CHECK(stream.fill((*memory)->data(), std::byte{43}, kBytes).ok());
    CHECK(stream.synchronize().ok());
    // The same memory once more, and less of it than there is.
    const auto again = cuda.gpu->open_ipc(exporter.handle, 1);
    REQUIRE(again);
    CHECK((*again)->data() == (*memory)->data());
    CHECK(cuda.standin.alive("mappings") == 2);
  }
  CHECK(cuda.standin.alive("mappings") == 0);
  CHECK(exporter.end() == 43);
}

TEST_CASE("a mapping outlives whoever opened it, and keeps the GPU") {
  CudaFixture cuda;
  Exporter exporter(Standin::path(), 1000, 1);
  auto memory = cuda.gpu->open_ipc(exporter.handle, 1000);
  REQUIRE(memory);
  const std::shared_ptr<const cuda::IpcMemory> copy = *memory;
  memory->reset();
  CHECK(cuda.standin.alive("mappings") == 1);
  cuda.gpu.reset();
  cuda.driver.reset();
  CHECK(cuda.standin.alive("contexts") == 1);
}

TEST_CASE("handles that are wrong are the client's fault and leave the device as it was") {
  CudaFixture cuda("devices=2");
  auto other = cuda.driver->gpu(1);
  REQUIRE(other);
  Exporter exporter(Standin::path(), 1000, 1);
  const auto refused = [&](cuda::Gpu& gpu, std::span<const std::byte> handle, std::size_t bytes) {
    const auto memory = gpu.open_ipc(handle, bytes);
    REQUIRE_FALSE(memory);
    CHECK(memory.error().code() == Code::kInvalidArgument);
    CHECK_FALSE(gpu.broken());
    CHECK(cuda.standin.alive("mappings") == 0);
    return memory.error().message();
  };
  // Larger than the allocation.
  CHECK(refused(*cuda.gpu, exporter.handle, 1001) ==
        "the CUDA allocation has 1000 bytes, fewer than 1001");
  (void)refused(*cuda.gpu, exporter.handle, static_cast<std::size_t>(-1));
  // Too short, too long.
  std::vector<std::byte> odd(exporter.handle.begin(), exporter.handle.end());
  odd.push_back(std::byte{0});
  CHECK(refused(*cuda.gpu, odd, 1) == "a CUDA IPC handle has 64 bytes, not 65");
  CHECK(refused(*cuda.gpu, std::span(odd).first(63), 1) ==
        "a CUDA IPC handle has 64 bytes, not 63");
  CHECK(refused(*cuda.gpu, {}, 1) == "a CUDA IPC handle has 64 bytes, not 0");
  // Another device's, and noise.
  (void)refused(**other, exporter.handle, 1);
  std::mt19937 random(31);
  for (int i = 0; i < 1000; ++i) {
    IpcHandle noise;
    for (std::byte& byte : noise) byte = static_cast<std::byte>(random());
    (void)refused(*cuda.gpu, noise, 1);
  }
  IpcHandle flipped = exporter.handle;
  flipped[9] ^= std::byte{1};
  (void)refused(*cuda.gpu, flipped, 1);
  // Of memory that is gone.
  CHECK(exporter.end() == 1);
  CHECK(refused(*cuda.gpu, exporter.handle, 1)
            .find("the CUDA IPC handle is not one of a living "
                  "allocation of another process on cuda:0") == 0);
  // The context works on.
  CHECK(cuda.gpu->probe().ok());
  const DeviceBytes memory(*cuda.gpu, 256);
}

TEST_CASE("a handle of our own is refused") {
  CudaFixture cuda;
  const DeviceBytes memory(*cuda.gpu, 256);
  const IpcHandle handle = cuda.standin.own_handle(memory.data());
  const auto opened = cuda.gpu->open_ipc(handle, 1);
  REQUIRE_FALSE(opened);
  CHECK(opened.error().code() == Code::kInvalidArgument);
}

TEST_CASE("what a driver answers to a handle: its own memory, unsupported, a dead context") {
  CudaFixture cuda;
  Exporter exporter(Standin::path(), 1000, 1);
  const auto answer = [&](int result) {
    cuda.standin.fail("cuIpcOpenMemHandle_v2", result);
    const auto memory = cuda.gpu->open_ipc(exporter.handle, 1000);
    REQUIRE_FALSE(memory);
    return memory.error().code();
  };
  CHECK(answer(CUDA_ERROR_OUT_OF_MEMORY) == Code::kResourceExhausted);
  CHECK(answer(CUDA_ERROR_NOT_SUPPORTED) == Code::kFailedPrecondition);
  CHECK(answer(CUDA_ERROR_UNKNOWN) == Code::kInvalidArgument);
  CHECK_FALSE(cuda.gpu->broken());
  cuda.standin.fail("cuMemGetAddressRange_v2", CUDA_ERROR_INVALID_VALUE);
  CHECK_FALSE(cuda.gpu->open_ipc(exporter.handle, 1000));
  CHECK(cuda.standin.alive("mappings") == 0);
  cuda.broken = true;
  CHECK(answer(CUDA_ERROR_ILLEGAL_ADDRESS) == Code::kInternal);
  CHECK(cuda.gpu->broken());
}
