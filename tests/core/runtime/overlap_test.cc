// What overlaps on a GPU, by the stand-in driver's own log.

#include <doctest/doctest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "runtime/gpu_fixture.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

struct Span {
  unsigned long long begin = 0;
  unsigned long long end = 0;
};

std::vector<Span> spans(Gpus& gpus, const std::string& what) {
  std::vector<Span> found;
  std::vector<Span> open;
  for (const auto& record : gpus.standin.log()) {
    if (what != record.what) continue;
    if (record.phase == kStandinBegin) {
      open.push_back({.begin = record.time_ns});
    } else {
      found.push_back({.begin = open.front().begin, .end = record.time_ns});
      open.erase(open.begin());
    }
  }
  return found;
}

int overlapping(const std::vector<Span>& some, const std::vector<Span>& others) {
  int count = 0;
  for (const Span& one : some) {
    for (const Span& other : others) count += one.begin < other.end && other.begin < one.end;
  }
  return count;
}

// As an instance does it: one thread launches into every lane that is free, one waits in order.
void pump(LaneExecutor& lanes, const LaunchedBatch& batch, int batches) {
  std::mutex mutex;
  std::condition_variable changed;
  int launched = 0;
  int completed = 0;
  std::jthread completer([&] {
    for (int k = 0; k < batches; ++k) {
      {
        std::unique_lock lock(mutex);
        changed.wait(lock, [&] { return launched > k; });
      }
      std::vector<OutputTensor> outputs(1);
      CHECK(lanes.wait(k % lanes.lanes(), outputs).ok());
      const std::lock_guard lock(mutex);
      ++completed;
      changed.notify_all();
    }
  });
  for (int k = 0; k < batches; ++k) {
    {
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return k - completed < lanes.lanes(); });
    }
    REQUIRE(lanes.launch(k % lanes.lanes(), batch).ok());
    const std::lock_guard lock(mutex);
    ++launched;
    changed.notify_all();
  }
}

}  // namespace

TEST_CASE("with two lanes copies run beside computing, with one they do not") {
  for (const int count : {1, 2}) {
    Gpus gpus;
    REQUIRE(gpus.standin.configure("copy_us=1000,kernel_us=2000"));
    auto runner = gpus.load("identity_fp32");
    auto lanes = Gpus::lanes(*runner, count);
    Parts parts(gpus.pool, DType::kFp32, {40'000});
    parts.add(1, 1);
    gpus.standin.clear_log();
    pump(*lanes, parts.batch(), 6);
    const auto computing = spans(gpus, "kernel");
    CHECK(computing.size() == 6);
    const int up = overlapping(spans(gpus, "copy_to_device"), computing);
    const int down = overlapping(spans(gpus, "copy_to_host"), computing);
    if (count == 1) {
      CHECK(up == 0);
      CHECK(down == 0);
    } else {
      CHECK(up >= 3);
      CHECK(down >= 3);
    }
  }
}

// The copy of the next batch ends while the first is held on the device: nothing on the way may
// wait for it. With a runtime that does wait the same look fails, so it can.
TEST_CASE("launching waits for nothing") {
  for (const bool synchronizing : {false, true}) {
    Gpus gpus;
    auto runner = gpus.load("identity_fp32");
    auto lanes = Gpus::lanes(*runner, 2);
    Parts parts(gpus.pool, DType::kFp32, {40'000});
    parts.add(1, 1);
    gpus.table().waits = synchronizing;
    gpus.standin.clear_log();
    gpus.standin.hold("kernel");
    std::jthread launcher([&] {
      CHECK(lanes->launch(0, parts.batch()).ok());
      CHECK(lanes->launch(1, parts.batch()).ok());
    });
    const int timeout_ms = synchronizing ? 200 : 10'000;
    const bool went_up = gpus.standin.wait("copy_to_device", kStandinEnd, 2, timeout_ms);
    CHECK(went_up != synchronizing);
    CHECK(gpus.standin.count("kernel", kStandinEnd) == 0);
    gpus.standin.release("kernel");
    launcher.join();
    std::vector<OutputTensor> outputs(1);
    CHECK(lanes->wait(0, outputs).ok());
    CHECK(lanes->wait(1, outputs).ok());
  }
}
