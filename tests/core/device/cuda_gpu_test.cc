#include <cuda.h>

#include <thread>
#include <vector>

#include "cuda_fixture.h"
#include "device/cuda/gpu.h"

using namespace servolley;
using namespace servolley::testing;

TEST_CASE("device memory: taken, given back, exhausted, and told") {
  CudaFixture cuda("memory=1048576");
  const auto before = cuda.gpu->memory();
  REQUIRE(before);
  CHECK(before->total_bytes == 1048576);
  CHECK(before->free_bytes == 1048576);
  {
    const DeviceBytes half(*cuda.gpu, 524288);
    CHECK(reinterpret_cast<std::uintptr_t>(half.data()) % 64 == 0);
    CHECK(cuda.gpu->memory()->free_bytes == 524288);
    CHECK(cuda.gpu->allocate(524289).data == nullptr);
    // Having no more is no harm.
    CHECK_FALSE(cuda.gpu->broken());
  }
  CHECK(cuda.gpu->memory()->free_bytes == 1048576);
}

TEST_CASE("every thread works in the device's context, whatever was current before") {
  CudaFixture cuda("devices=2");
  auto other = cuda.driver->gpu(1);
  REQUIRE(other);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 50; ++round) {
        const DeviceBytes here(*cuda.gpu, 256);
        const DeviceBytes there(**other, 256);
        const PinnedBytes pinned(*cuda.gpu, 256);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  other->reset();
}

TEST_CASE("out of memory is RESOURCE_EXHAUSTED and passes; other results are INTERNAL") {
  CudaFixture cuda;
  cuda.standin.fail("cuMemGetInfo_v2", CUDA_ERROR_OUT_OF_MEMORY);
  const auto full = cuda.gpu->memory();
  REQUIRE_FALSE(full);
  CHECK(full.error().code() == Code::kResourceExhausted);
  CHECK(full.error().message() ==
        "cuda:0: cannot tell its free memory: out of memory (CUDA_ERROR_OUT_OF_MEMORY)");
  cuda.standin.fail("cuMemGetInfo_v2", CUDA_ERROR_INVALID_VALUE);
  const auto wrong = cuda.gpu->memory();
  REQUIRE_FALSE(wrong);
  CHECK(wrong.error().code() == Code::kInternal);
  CHECK_FALSE(cuda.gpu->broken());
  CHECK(cuda.gpu->health().ok());
  CHECK(cuda.gpu->memory());
}

TEST_CASE("an error that ends the context breaks the device for good, and is remembered") {
  for (const CUresult result :
       {CUDA_ERROR_ILLEGAL_ADDRESS, CUDA_ERROR_LAUNCH_FAILED, CUDA_ERROR_ECC_UNCORRECTABLE,
        CUDA_ERROR_ASSERT, CUDA_ERROR_LAUNCH_TIMEOUT}) {
    CAPTURE(static_cast<int>(result));
    CudaFixture cuda;
    cuda.broken = true;
    auto stream = cuda.stream();
    auto event = cuda.event();
    const Memory memory = cuda.gpu->allocate(256);
    std::byte* const pinned = cuda.gpu->allocate_pinned(256);
    cuda.standin.fail("cuEventQuery", result);
    CHECK_FALSE(event.done());
    CHECK(cuda.gpu->broken());
    const Status health = cuda.gpu->health();
    CHECK(health.code() == Code::kInternal);
    CHECK(health.message().find("cuda:0 is broken until the server is restarted: ") == 0);
    // From now on nobody asks the driver, and nothing hangs.
    CHECK(cuda.gpu->allocate(1).data == nullptr);
    CHECK(cuda.gpu->allocate_pinned(1) == nullptr);
    CHECK(cuda.gpu->probe().message() == health.message());
    CHECK(stream.copy_to_device(memory.data, pinned, 256).message() == health.message());
    CHECK(stream.synchronize().message() == health.message());
    CHECK(event.wait().message() == health.message());
    CHECK_FALSE(cuda.gpu->create_stream());
    CHECK_FALSE(cuda.gpu->create_event());
    cuda.gpu->free(memory, 256);
    cuda.gpu->free_pinned(pinned);
  }
}

TEST_CASE("a device that another library broke is found out by asking") {
  CudaFixture cuda;
  cuda.broken = true;
  CHECK(cuda.gpu->probe().ok());
  auto stream = cuda.stream();
  // A kernel of somebody else fails; nothing that we called did.
  cuda.standin.fail("kernel", CUDA_ERROR_LAUNCH_FAILED);
  REQUIRE(cuda.standin.launch(stream.native(), "kernel") == 0);
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (cuda.gpu->probe().ok() && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  CHECK(cuda.gpu->broken());
}

TEST_CASE("one broken device leaves the others alone") {
  CudaFixture cuda("devices=2");
  cuda.broken = true;
  auto other = cuda.driver->gpu(1);
  REQUIRE(other);
  cuda.standin.fail("cuMemAlloc_v2", CUDA_ERROR_ILLEGAL_ADDRESS);
  CHECK(cuda.gpu->allocate(256).data == nullptr);
  CHECK(cuda.gpu->broken());
  CHECK_FALSE((*other)->broken());
  const DeviceBytes memory(**other, 256);
}
