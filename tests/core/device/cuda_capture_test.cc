// Captures of graphs, which other libraries make in our streams.

#include <cuda.h>

#include <thread>

#include "cuda_fixture.h"

using namespace servolley;
using namespace servolley::testing;

namespace {

constexpr std::size_t kBytes = 4096;

}  // namespace

TEST_CASE("a capture that was left open is ended, with nothing of it left") {
  CudaFixture cuda;
  auto stream = cuda.stream();
  CHECK(stream.end_capture().ok());  // none
  const DeviceBytes device(*cuda.gpu, kBytes);
  const PinnedBytes out(*cuda.gpu, kBytes);
  for (const bool spoilt : {false, true}) {
    CHECK(stream.fill(device.data(), std::byte{1}, kBytes).ok());
    REQUIRE(cuda.standin.begin_capture(stream.native()) == 0);
    CHECK(stream.fill(device.data(), std::byte{2}, kBytes).ok());
    if (spoilt) {
      CHECK_FALSE(stream.idle());
      CHECK_FALSE(stream.fill(device.data(), std::byte{2}, kBytes).ok());
    }
    CHECK(stream.end_capture().ok());
    CHECK(stream.copy_to_host(out.data(), device.data(), kBytes).ok());
    CHECK(stream.synchronize().ok());
    CHECK(out.all(1));
    CHECK(cuda.standin.alive("graphs") == 0);
    CHECK_FALSE(cuda.gpu->broken());
  }
}

TEST_CASE("a capture that does not end is told") {
  CudaFixture cuda;
  auto stream = cuda.stream();
  REQUIRE(cuda.standin.begin_capture(stream.native()) == 0);
  cuda.standin.fail("cuStreamEndCapture", CUDA_ERROR_INVALID_VALUE);
  CHECK(stream.end_capture().message() ==
        "cuda:0: cannot end a capture: invalid argument (CUDA_ERROR_INVALID_VALUE)");
  CHECK(stream.end_capture().ok());
}

TEST_CASE("what threads do while another one captures neither fails nor spoils the capture") {
  CudaFixture cuda;
  auto captured = cuda.stream();
  auto stream = cuda.stream();
  auto event = cuda.event();
  REQUIRE(cuda.standin.begin_capture(captured.native()) == 0);
  std::thread other([&] {
    const DeviceBytes device(*cuda.gpu, kBytes);
    const PinnedBytes in(*cuda.gpu, kBytes, 3);
    CHECK(stream.copy_to_device(device.data(), in.data(), kBytes).ok());
    CHECK(stream.record(event).ok());
    CHECK(event.wait().ok());
    CHECK(*event.done());
    CHECK(*stream.idle());
    CHECK(stream.synchronize().ok());
  });
  other.join();
  CHECK(cuda.standin.end_capture(captured.native()) == 0);
}

TEST_CASE("a thread that captures is refused what would leave a hole in the graph") {
  CudaFixture cuda;
  auto captured = cuda.stream();
  auto stream = cuda.stream();
  REQUIRE(cuda.standin.begin_capture(captured.native()) == 0);
  CHECK(stream.synchronize().code() == Code::kInternal);
  CHECK(cuda.standin.end_capture(captured.native()) == CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
  CHECK(stream.synchronize().ok());
  // Work of other streams is none of the capture's.
  REQUIRE(cuda.standin.begin_capture(captured.native()) == 0);
  auto event = cuda.event();
  CHECK(stream.record(event).ok());
  CHECK(captured.wait(event).code() == Code::kInternal);
  CHECK(captured.end_capture().ok());
}
