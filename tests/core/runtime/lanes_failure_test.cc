// Lanes of a device on which something fails: nothing is freed that it may still read or write.

#include <doctest/doctest.h>

#include <atomic>
#include <thread>

#include "runtime/gpu_fixture.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

constexpr int kCaptureUnsupported = 900;  // some error that leaves the context as it is

std::vector<OutputTensor> run(LaneExecutor& lanes, int lane, const LaunchedBatch& batch) {
  std::vector<OutputTensor> outputs(1);
  Status status = lanes.launch(lane, batch);
  REQUIRE_MESSAGE(status.ok(), status.message());
  status = lanes.wait(lane, outputs);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return outputs;
}

}  // namespace

TEST_CASE("a wait that fails returns when the device no longer writes to the outputs") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32");
  auto lanes = Gpus::lanes(*runner, 1);
  Parts parts(gpus.pool, DType::kFp32, {40'000});
  parts.add(2, 1);
  const std::size_t before = gpus.pool.stats().in_use_bytes;
  gpus.standin.hold("copy_to_host");
  REQUIRE(lanes->launch(0, parts.batch()).ok());
  const std::size_t leased = gpus.pool.stats().in_use_bytes;
  REQUIRE(leased > before);
  gpus.standin.clear_log();
  gpus.standin.fail("cuEventSynchronize", kCaptureUnsupported);
  std::atomic<bool> returned{false};
  std::jthread completer([&] {
    std::vector<OutputTensor> outputs(1);
    CHECK(lanes->wait(0, outputs).code() == Code::kInternal);
    CHECK_FALSE(outputs[0].owner);
    returned = true;
  });
  // In order, so that the copy is the last that it waits for.
  CHECK(gpus.standin.begun("cuStreamSynchronize", 3));
  CHECK_FALSE(returned);
  CHECK(gpus.pool.stats().in_use_bytes == leased);
  gpus.standin.release("copy_to_host");
  completer.join();
  CHECK(gpus.pool.stats().in_use_bytes == before);
  CHECK_FALSE(lanes->broken());
  std::vector<std::byte> bytes;
  const TensorView whole[] = {parts.whole(bytes)};
  check_same(run(*lanes, 0, parts.batch()), gpus.on_cpu("identity_fp32", whole, 2));
}

TEST_CASE("a look never waits, and says when a wait would not") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32");
  auto lanes = Gpus::lanes(*runner, 1);
  Parts parts(gpus.pool, DType::kFp32, {40'000});
  parts.add(2, 1);
  gpus.standin.hold("copy_to_host");
  REQUIRE(lanes->launch(0, parts.batch()).ok());
  CHECK_FALSE(lanes->done(0));
  gpus.standin.release("copy_to_host");
  while (!lanes->done(0)) std::this_thread::yield();
  CHECK(gpus.standin.count("cuEventSynchronize") == 0);
  std::vector<OutputTensor> outputs(1);
  CHECK(lanes->wait(0, outputs).ok());
  CHECK(gpus.standin.count("cuEventSynchronize") == 0);
  std::vector<std::byte> bytes;
  const TensorView whole[] = {parts.whole(bytes)};
  check_same(outputs, gpus.on_cpu("identity_fp32", whole, 2));
  // The next batch's end is another.
  check_same(run(*lanes, 0, parts.batch()), outputs);
  CHECK(gpus.standin.count("cuEventSynchronize") > 0);
}

TEST_CASE("an error that a look finds is the wait's, which sees the device come to rest first") {
  for (const bool for_good : {false, true}) {
    Gpus gpus;
    auto runner = gpus.load("identity_fp32");
    auto lanes = Gpus::lanes(*runner, 1);
    Parts parts(gpus.pool, DType::kFp32, {40'000});
    parts.add(2, 1);
    const std::size_t before = gpus.pool.stats().in_use_bytes;
    gpus.standin.hold("copy_to_host");
    REQUIRE(lanes->launch(0, parts.batch()).ok());
    const std::size_t leased = gpus.pool.stats().in_use_bytes;
    gpus.standin.clear_log();
    gpus.standin.fail("cuEventQuery", for_good ? 700 : kCaptureUnsupported);
    CHECK(lanes->done(0));
    CHECK(lanes->broken() == for_good);
    std::atomic<bool> returned{false};
    std::jthread completer([&] {
      std::vector<OutputTensor> outputs(1);
      CHECK(lanes->wait(0, outputs).code() == Code::kInternal);
      CHECK_FALSE(outputs[0].owner);
      returned = true;
    });
    if (!for_good) {  // a broken device is not asked any more
      CHECK(gpus.standin.begun("cuStreamSynchronize", 3));
      CHECK_FALSE(returned);
      CHECK(gpus.pool.stats().in_use_bytes == leased);
    }
    gpus.standin.release("copy_to_host");
    completer.join();
    if (for_good) continue;
    CHECK(gpus.pool.stats().in_use_bytes == before);
    std::vector<std::byte> bytes;
    const TensorView whole[] = {parts.whole(bytes)};
    check_same(run(*lanes, 0, parts.batch()), gpus.on_cpu("identity_fp32", whole, 2));
  }
}

TEST_CASE("where nobody can wait for the device it counts as broken, and keeps what it may write") {
  Gpus gpus;
  {
    auto runner = gpus.load("identity_fp32");
    auto lanes = Gpus::lanes(*runner, 2);
    Parts parts(gpus.pool, DType::kFp32, {40'000});
    parts.add(2, 1);
    gpus.standin.hold("copy_to_host");
    REQUIRE(lanes->launch(0, parts.batch()).ok());
    REQUIRE(lanes->launch(1, parts.batch()).ok());
    REQUIRE(gpus.standin.ended("kernel", 2));
    const std::size_t leased = gpus.pool.stats().in_use_bytes;
    gpus.standin.fail("cuEventSynchronize", kCaptureUnsupported);
    gpus.standin.fail("cuStreamSynchronize", kCaptureUnsupported);
    std::vector<OutputTensor> outputs(1);
    CHECK(lanes->wait(0, outputs).code() == Code::kInternal);
    CHECK(lanes->broken());
    CHECK(lanes->wait(1, outputs).code() == Code::kInternal);
    CHECK(gpus.pool.stats().in_use_bytes == leased);
    CHECK(lanes->launch(0, parts.batch()).code() == Code::kInternal);
  }
  // What comes down now comes to memory that nobody else has.
  const std::size_t bytes = std::size_t{2} * 40'000 * sizeof(float);
  auto others = gpus.pool.allocate(bytes);
  REQUIRE(others);
  std::memset(others->data(), 7, bytes);
  gpus.standin.release("copy_to_host");
  CHECK(gpus.standin.ended("copy_to_host", 2));
  for (std::size_t i = 0; i < bytes; ++i) REQUIRE(others->data()[i] == std::byte{7});
}

TEST_CASE("a batch that is refused before anything is queued waits for nobody") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32");
  auto lanes = Gpus::lanes(*runner, 2);
  Parts parts(gpus.pool, DType::kFp32, {16});
  parts.add(1, 1);
  gpus.standin.hold("kernel");
  REQUIRE(lanes->launch(0, parts.batch()).ok());
  InputPart bad = parts.parts().front();
  bad.view.bytes -= 4;
  gpus.standin.clear_log();
  CHECK(lanes->launch(1, {.parts = {&bad, 1}, .requests = 1, .rows = 1}).code() ==
        Code::kInvalidArgument);
  CHECK(gpus.standin.count("cuStreamSynchronize") == 0);
  // What has gone up only waits for that, not for what the other lane computes.
  gpus.standin.fail("cuEventRecord", kCaptureUnsupported);
  CHECK(lanes->launch(1, parts.batch()).code() == Code::kInternal);
  CHECK(gpus.standin.count("cuStreamSynchronize", kStandinEnd) == 1);
  CHECK(gpus.standin.count("kernel") == 0);
  gpus.standin.release("kernel");
  std::vector<OutputTensor> outputs(1);
  CHECK(lanes->wait(0, outputs).ok());
}

TEST_CASE("a session on a broken device is kept: releasing it could end the process") {
  Gpus gpus;
  const std::string name = "identity_fp32";
  gpus.load(name);
  CHECK(gpus.table().released == 1);
  {
    auto runner = gpus.load(name);
    auto lanes = Gpus::lanes(*runner, 1);
    Parts parts(gpus.pool, DType::kFp32, {16});
    parts.add(1, 1);
    gpus.standin.fail("kernel", 700);
    gpus.standin.hold("kernel");
    REQUIRE(lanes->launch(0, parts.batch()).ok());
    gpus.standin.release("kernel");
    std::vector<OutputTensor> outputs(1);
    CHECK(lanes->wait(0, outputs).code() == Code::kInternal);
    CHECK(lanes->broken());
  }
  CHECK(gpus.table().released == 1);
}
