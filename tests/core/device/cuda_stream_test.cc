#include <cuda.h>

#include <atomic>
#include <future>
#include <thread>
#include <vector>

#include "cuda_fixture.h"
#include "device/cuda/stream.h"

using namespace servolley;
using namespace servolley::testing;

namespace {

constexpr std::size_t kBytes = 4096;

// Where a record of this kind is in the log; -1 if it is not.
int position(const std::vector<standin_record>& log, std::string_view what, int phase,
             int nth = 0) {
  for (std::size_t i = 0; i < log.size(); ++i) {
    if (log[i].phase == phase && what == log[i].what && nth-- == 0) return static_cast<int>(i);
  }
  return -1;
}

// A kernel that runs until the test lets it end.
struct Gate {
  static void run(void* gate) { static_cast<Gate*>(gate)->opened.get_future().wait(); }
  void open() { opened.set_value(); }
  std::promise<void> opened;
};

}  // namespace

TEST_CASE("bytes go up, across, down; fill fills") {
  CudaFixture cuda("guard=1");
  auto stream = cuda.stream();
  const DeviceBytes a(*cuda.gpu, kBytes);
  const DeviceBytes b(*cuda.gpu, kBytes);
  const PinnedBytes in(*cuda.gpu, kBytes, 7);
  const PinnedBytes out(*cuda.gpu, kBytes);
  CHECK(stream.copy_to_device(a.data(), in.data(), kBytes).ok());
  CHECK(stream.copy_on_device(b.data(), a.data(), kBytes).ok());
  CHECK(stream.copy_to_host(out.data(), b.data(), kBytes).ok());
  CHECK(stream.synchronize().ok());
  CHECK(out.all(7));
  CHECK(stream.idle());
  CHECK(stream.fill(b.data(), std::byte{9}, kBytes).ok());
  CHECK(stream.copy_to_host(out.data(), b.data(), kBytes).ok());
  CHECK(stream.synchronize().ok());
  CHECK(out.all(9));
}

TEST_CASE("nothing to copy is no call, wherever it may lie") {
  CudaFixture cuda;
  auto stream = cuda.stream();
  CHECK(stream.copy_to_device(nullptr, nullptr, 0).ok());
  CHECK(stream.copy_to_host(nullptr, nullptr, 0).ok());
  CHECK(stream.copy_on_device(nullptr, nullptr, 0).ok());
  CHECK(stream.fill(nullptr, std::byte{0}, 0).ok());
  CHECK(stream.synchronize().ok());
  CHECK(cuda.standin.log().size() == 2);  // the synchronisation's two ends
}

TEST_CASE("calls return while the work waits; an event says when it is done") {
  CudaFixture cuda;
  auto stream = cuda.stream();
  auto event = cuda.event();
  // Never recorded: nothing to wait for.
  CHECK(*event.done());
  CHECK(event.wait().ok());
  const DeviceBytes device(*cuda.gpu, kBytes);
  const PinnedBytes in(*cuda.gpu, kBytes, 1);
  cuda.standin.hold("copy_to_device");
  CHECK(stream.copy_to_device(device.data(), in.data(), kBytes).ok());
  CHECK(stream.record(event).ok());
  CHECK_FALSE(*event.done());
  CHECK_FALSE(*stream.idle());
  std::thread release([&] { cuda.standin.release("copy_to_device"); });
  CHECK(event.wait().ok());
  release.join();
  CHECK(*event.done());
  // Recorded again, it means the later point.
  cuda.standin.hold("fill");
  CHECK(stream.fill(device.data(), std::byte{1}, kBytes).ok());
  CHECK(stream.record(event).ok());
  CHECK_FALSE(*event.done());
  cuda.standin.release("fill");
  CHECK(event.wait().ok());
}

TEST_CASE("a stream waits for another one's event, and only for that") {
  CudaFixture cuda;
  auto up = cuda.stream();
  auto compute = cuda.stream();
  auto event = cuda.event();
  const DeviceBytes device(*cuda.gpu, kBytes);
  const PinnedBytes in(*cuda.gpu, kBytes, 3);
  cuda.standin.hold("copy_to_device");
  CHECK(up.copy_to_device(device.data(), in.data(), kBytes).ok());
  CHECK(up.record(event).ok());
  CHECK(compute.wait(event).ok());
  CHECK(cuda.standin.launch(compute.native(), "kernel") == 0);
  auto free = cuda.stream();
  CHECK(cuda.standin.launch(free.native(), "unrelated") == 0);
  CHECK(cuda.standin.ended("unrelated"));
  CHECK(cuda.standin.count("kernel") == 0);
  cuda.standin.release("copy_to_device");
  CHECK(cuda.standin.ended("kernel"));
  const auto log = cuda.standin.log();
  CHECK(position(log, "copy_to_device", kStandinEnd) < position(log, "kernel", kStandinBegin));
}

TEST_CASE("host functions run in order on another thread, and the driver refuses their calls") {
  CudaFixture cuda;
  auto stream = cuda.stream();
  struct Seen {
    cuda::Gpu* gpu;
    std::thread::id thread;
    Status inside;
    int calls = 0;
  } seen{.gpu = cuda.gpu.get(), .thread = {}, .inside = {}};
  const auto function = [](void* argument) {
    auto& to = *static_cast<Seen*>(argument);
    to.thread = std::this_thread::get_id();
    to.inside = to.gpu->probe();
    ++to.calls;
  };
  CHECK(stream.launch_host(function, &seen).ok());
  CHECK(stream.launch_host(function, &seen).ok());
  CHECK(stream.synchronize().ok());
  CHECK(seen.calls == 2);
  CHECK(seen.thread != std::this_thread::get_id());
  CHECK(seen.inside.message().find("CUDA_ERROR_NOT_PERMITTED") != std::string::npos);
  CHECK(cuda.standin.misuse() != "");
  cuda.standin.forget_misuse();
}

TEST_CASE("the copy of batch k+1 overlaps the computing of batch k, and a synchronisation shows") {
  // What an instance with two lanes does: up, compute, down on three streams, ordered by events.
  struct Lane {
    explicit Lane(CudaFixture& cuda)
        : in(*cuda.gpu, kBytes, 5),
          out(*cuda.gpu, kBytes),
          device(*cuda.gpu, kBytes),
          up(cuda.event()),
          computed(cuda.event()),
          down(cuda.event()) {}
    PinnedBytes in, out;
    DeviceBytes device;
    cuda::Event up, computed, down;
  };
  CudaFixture cuda("copy_us=100");
  auto up = cuda.stream();
  auto compute = cuda.stream();
  auto down = cuda.stream();
  Lane lanes[2] = {Lane(cuda), Lane(cuda)};
  const auto launch = [&](Lane& lane, Gate* gate) {
    CHECK(up.copy_to_device(lane.device.data(), lane.in.data(), kBytes).ok());
    CHECK(up.record(lane.up).ok());
    CHECK(compute.wait(lane.up).ok());
    CHECK(cuda.standin.launch(compute.native(), "kernel", gate ? &Gate::run : nullptr, gate) == 0);
    CHECK(compute.record(lane.computed).ok());
    CHECK(down.wait(lane.computed).ok());
    CHECK(down.copy_to_host(lane.out.data(), lane.device.data(), kBytes).ok());
    CHECK(down.record(lane.down).ok());
  };
  const auto overlapped = [&] {
    const auto log = cuda.standin.log();
    return position(log, "copy_to_device", kStandinEnd, 1) < position(log, "kernel", kStandinEnd);
  };

  SUBCASE("without a synchronisation") {
    Gate gate;
    launch(lanes[0], &gate);
    CHECK(cuda.standin.begun("kernel"));
    launch(lanes[1], nullptr);
    // The first batch computes until the second is up.
    CHECK(cuda.standin.ended("copy_to_device", 2));
    CHECK(cuda.standin.count("kernel", kStandinEnd) == 0);
    gate.open();
    for (Lane& lane : lanes) {
      CHECK(lane.down.wait().ok());
      CHECK(lane.out.all(5));
    }
    CHECK(overlapped());
    // The thread that launches has waited for nothing but the two ends.
    CHECK(cuda.standin.count("cuEventSynchronize") == 2);
    CHECK(cuda.standin.count("cuStreamSynchronize") == 0);
    CHECK(cuda.standin.count("pageable_copy") == 0);
  }
  SUBCASE("with one: the test above would fail") {
    launch(lanes[0], nullptr);
    CHECK(compute.synchronize().ok());
    launch(lanes[1], nullptr);
    for (Lane& lane : lanes) CHECK(lane.down.wait().ok());
    CHECK_FALSE(overlapped());
    CHECK(cuda.standin.count("cuStreamSynchronize") == 1);
  }
}

TEST_CASE("copies of ordinary memory make the host wait, which the log shows") {
  CudaFixture cuda;
  auto stream = cuda.stream();
  constexpr std::size_t kLarge = 256 << 10;
  const DeviceBytes device(*cuda.gpu, kLarge);
  std::vector<std::byte> ordinary(kLarge, std::byte{4});
  CHECK(stream.copy_to_device(device.data(), ordinary.data(), kLarge).ok());
  CHECK(cuda.standin.count("pageable_copy") == 1);
  ordinary.assign(kLarge, std::byte{0});
  CHECK(stream.copy_to_host(ordinary.data(), device.data(), kLarge).ok());
  CHECK(cuda.standin.count("pageable_copy") == 2);
  CHECK(ordinary.back() == std::byte{4});
}

TEST_CASE("a kernel that fails: whoever waits is told, what follows is skipped") {
  CudaFixture cuda;
  cuda.broken = true;
  auto stream = cuda.stream();
  auto event = cuda.event();
  cuda.standin.fail("kernel", CUDA_ERROR_ILLEGAL_ADDRESS);
  cuda.standin.hold("kernel");
  std::atomic<int> calls{0};
  REQUIRE(cuda.standin.launch(stream.native(), "kernel") == 0);
  CHECK(stream
            .launch_host([](void* count) { static_cast<std::atomic<int>*>(count)->fetch_add(1); },
                         &calls)
            .ok());
  CHECK(stream.record(event).ok());
  cuda.standin.release("kernel");
  const Status status = event.wait();
  CHECK(status.code() == Code::kInternal);
  CHECK(status.message().find("CUDA_ERROR_ILLEGAL_ADDRESS") != std::string::npos);
  CHECK(calls == 0);
  CHECK(cuda.gpu->broken());
}

TEST_CASE("streams and events move, and let go of what they had") {
  CudaFixture cuda;
  auto stream = cuda.stream();
  auto event = cuda.event();
  CHECK(cuda.standin.alive("streams") == 1);
  stream = cuda.stream();
  event = cuda.event();
  CHECK(cuda.standin.alive("streams") == 1);
  CHECK(cuda.standin.alive("events") == 1);
  const cuda::Stream other = std::move(stream);
  CHECK(other.native());
  CHECK_FALSE(stream.native());  // NOLINT: a moved-from stream is empty by contract
  CHECK(cuda.standin.alive("streams") == 1);
}

TEST_CASE("the stand-in notices what a driver may not") {
  CudaFixture cuda;
  auto stream = cuda.stream();
  const PinnedBytes host(*cuda.gpu, kBytes);
  std::byte* freed = nullptr;
  {
    const DeviceBytes device(*cuda.gpu, kBytes);
    freed = device.data();
    // Beyond the end.
    CHECK(stream.copy_to_device(freed + 1, host.data(), kBytes).code() == Code::kInternal);
  }
  CHECK(stream.copy_to_host(host.data(), freed, kBytes).code() == Code::kInternal);
  CHECK(cuda.standin.misuse() == "cuMemcpyHtoDAsync_v2: not (all of it) device memory");
  CHECK_FALSE(cuda.gpu->broken());
  // What this test did on purpose is not for the fixture to complain about.
  const auto settled = stream.synchronize();
  CHECK(settled.ok());
  cuda.standin.forget_misuse();
}
