// Captures that fail, and what they must leave behind: the right answers, and a stream in order.

#include <doctest/doctest.h>

#include <thread>

#include "device/memory_of.h"
#include "runtime/graphs.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

using Capture = CudaTable::Capture;

TEST_CASE("a batch between two buckets whose capture fails is answered with its own rows") {
  for (const Capture capture : {Capture::kRefused, Capture::kLeftOpen, Capture::kStoredPartly}) {
    CAPTURE(static_cast<int>(capture));
    const Log log;
    Gpus gpus;
    gpus.table().capture = capture;
    auto runner = gpus.load("identity_fp32", with_graphs(gpus));
    auto other = gpus.load("identity_fp32", with_graphs(gpus));
    auto lanes = Gpus::lanes(*runner, 2, {4});
    check_right(gpus, *lanes, 0, 3, 1);
    CHECK(runner->graphs() == GraphUse::kNotYet);
    // The same stream, the other lane, and another model's stream: once is no reason to go without.
    gpus.table().capture = Capture::kWorks;
    check_right(gpus, *lanes, 1, 3, 5);
    check_right(gpus, *lanes, 0, 4, 9);
    auto theirs = Gpus::lanes(*other, 1, {4});
    check_right(gpus, *theirs, 0, 3, 13);
    CHECK(other->graphs() == GraphUse::kOn);
    CHECK(runner->graphs() == GraphUse::kOn);
    CHECK(gpus.table().graph_runs == Ids{0, -1, 1, 2, 0});
    CHECK(logged.empty());
    CHECK_FALSE(lanes->broken());
    CHECK(gpus.standin.alive("graphs") == 0);
  }
}

TEST_CASE("two captures in a row that fail are enough, whatever their size") {
  const Log log;
  Gpus gpus;
  gpus.table().capture = Capture::kLeftOpen;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {2, 4});
  check_right(gpus, *lanes, 0, 4, 1);
  CHECK(runner->graphs() == GraphUse::kNotYet);
  check_right(gpus, *lanes, 0, 2, 1);
  CHECK(runner->graphs() == GraphUse::kRefused);
  CHECK(logged.size() == 1);
}

TEST_CASE("a size whose captures fail goes without, and the others keep their graphs") {
  const Log log;
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {2, 4});
  check_right(gpus, *lanes, 0, 2, 1);
  gpus.table().capture = Capture::kLeftOpen;
  for (int attempt = 0; attempt < 2; ++attempt) check_right(gpus, *lanes, 0, 4, 1);
  CHECK(runner->graphs() == GraphUse::kOn);
  REQUIRE(logged.size() == 1);
  CHECK(logged[0].starts_with("model 'm': no CUDA graph for batches of 4 rows: "));
  check_right(gpus, *lanes, 0, 4, 5);
  check_right(gpus, *lanes, 0, 2, 5);
  CHECK(gpus.table().graph_runs == Ids{0, 1, -1, 2, -1, -1, 0});
}

TEST_CASE("a batch that fails with and without a graph is to blame; the next one captures anew") {
  const Log log;
  Gpus gpus;
  gpus.table().capture = Capture::kStoredPartly;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {2});
  Parts bad(gpus.pool, DType::kFp32, {8});
  bad.add(2, 1);
  gpus.table().failing_runs = 2;
  CHECK(lanes->launch(0, bad.batch()).code() == Code::kInternal);
  CHECK(runner->graphs() == GraphUse::kNotYet);
  CHECK(logged.empty());
  gpus.table().capture = Capture::kWorks;
  check_right(gpus, *lanes, 0, 2, 1);
  check_right(gpus, *lanes, 0, 2, 5);
  CHECK(gpus.table().graph_runs == Ids{0, -1, -1, 1, 1});

  // Twice is enough.
  auto again = gpus.load("identity_fp32", with_graphs(gpus));
  auto others = Gpus::lanes(*again, 1, {2});
  gpus.table().capture = Capture::kLeftOpen;
  for (int attempt = 0; attempt < 2; ++attempt) {
    gpus.table().failing_runs = 2;
    CHECK(others->launch(0, bad.batch()).code() == Code::kInternal);
  }
  CHECK(again->graphs() == GraphUse::kRefused);
  CHECK(logged.size() == 1);
  check_right(gpus, *others, 0, 2, 1);
}

TEST_CASE("what fails before the run of a batch does not cost the model its graphs") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {2});
  gpus.standin.fail("cuMemAlloc_v2", 2, 0, 2);  // out of memory: it fits without the bucket
  check_right(gpus, *lanes, 0, 2, 1);
  CHECK(runner->graphs() == GraphUse::kNotYet);
  check_right(gpus, *lanes, 0, 2, 1);
  CHECK(runner->graphs() == GraphUse::kOn);
  CHECK(gpus.table().graph_runs.back() == 0);
}

TEST_CASE("a run that fails without a graph costs neither the graphs nor the outputs' places") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {2});
  check_right(gpus, *lanes, 0, 3, 1);
  Parts parts(gpus.pool, DType::kFp32, {8});
  parts.add(3, 1);
  gpus.table().failing_runs = 2;
  CHECK(lanes->launch(0, parts.batch()).code() == Code::kInternal);
  check_right(gpus, *lanes, 0, 3, 1);
  const int bound = gpus.table().bindings;
  check_right(gpus, *lanes, 0, 3, 5);
  CHECK(gpus.table().bindings == bound);
  check_right(gpus, *lanes, 0, 2, 1);
  CHECK(gpus.table().graph_runs == Ids{-1, -1, -1, -1, -1, 0});
}

TEST_CASE("while one model captures others launch, wait and take memory, and nobody fails") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {2});
  auto other = gpus.load("identity_fp32");
  auto theirs = Gpus::lanes(*other, 2);
  gpus.table().while_capturing = [&] {
    std::jthread([&] {
      check_right(gpus, *theirs, 0, 3, 5);
      const servolley::testing::DeviceBytes memory(gpus.gpu(), 4096);
      auto stream = gpus.gpu().create_stream();
      REQUIRE(stream);
      CHECK(stream->idle());
      CHECK(stream->synchronize().ok());
      auto event = gpus.gpu().create_event();
      REQUIRE(event);
      CHECK(event->done());
      // Loading and unloading, too.
      OrtOptions quietly = gpus.options();
      quietly.load_niceness = 5;
      check_right(gpus, *Gpus::lanes(*gpus.load("identity_fp32", quietly), 1), 0, 2, 3);
    }).join();
  };
  check_right(gpus, *lanes, 0, 2, 1);
  CHECK(runner->graphs() == GraphUse::kOn);
  CHECK(gpus.table().graph_runs == Ids{0, -1, -1});
}

TEST_CASE("a capture that nobody can end breaks the device") {
  Gpus gpus;
  gpus.table().capture = Capture::kLeftOpen;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  auto lanes = Gpus::lanes(*runner, 1, {2});
  Parts parts(gpus.pool, DType::kFp32, {8});
  parts.add(2, 1);
  gpus.standin.fail("cuStreamEndCapture", 400);
  CHECK(lanes->launch(0, parts.batch()).code() == Code::kInternal);
  CHECK(lanes->broken());
}

TEST_CASE("lanes that are made anew do not replay the graphs of those before") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32", with_graphs(gpus));
  for (int round = 0; round < 2; ++round) {
    auto lanes = Gpus::lanes(*runner, 1, {2});
    check_right(gpus, *lanes, 0, 2, 1 + round);
  }
  CHECK(gpus.table().graph_runs == Ids{0, 1});
}
