#include "base/quiet_work.h"

#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <vector>

namespace servolley {
namespace {

int niceness() { return ::getpriority(PRIO_PROCESS, static_cast<::id_t>(::gettid())); }

TEST_CASE("quiet work stands back, and neither its caller nor what it has done outside does") {
  const int ours = niceness();
  const auto caller = std::this_thread::get_id();
  QuietWork quiet(5);
  int during = 0;
  int outside = 0;
  int of_a_thread = 0;
  std::thread::id outside_on;
  std::jthread made;
  for (int round = 0; round < 2; ++round) {
    quiet.run([&] {
      during = niceness();
      CHECK(std::this_thread::get_id() != caller);
      quiet.outside([&] {
        outside = niceness();
        outside_on = std::this_thread::get_id();
        made = std::jthread([&] { of_a_thread = niceness(); });
      });
    });
    made = {};  // joins
    CHECK(during == std::min(ours + 5, 19));
    CHECK(outside == ours);
    CHECK(outside_on == caller);
    CHECK(of_a_thread == ours);
    CHECK(niceness() == ours);
  }
}

TEST_CASE("without a niceness nothing changes threads") {
  const auto caller = std::this_thread::get_id();
  QuietWork plain(0);
  std::thread::id inside;
  std::thread::id outside;
  plain.run([&] {
    inside = std::this_thread::get_id();
    plain.outside([&] { outside = std::this_thread::get_id(); });
  });
  CHECK(inside == caller);
  CHECK(outside == caller);
}

TEST_CASE("outside of any run a task is just called") {
  QuietWork quiet(5);
  int calls = 0;
  quiet.outside([&] { ++calls; });
  quiet.run([] {});
  quiet.outside([&] { ++calls; });
  CHECK(calls == 2);
}

TEST_CASE("threads of the work ask for something outside at once") {
  QuietWork quiet(5);
  int count = 0;  // only ever touched outside
  quiet.run([&] {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        for (int j = 0; j < 100; ++j) quiet.outside([&] { ++count; });
      });
    }
  });
  CHECK(count == 800);
}

TEST_CASE("what the work throws, its caller gets") {
  QuietWork quiet(5);
  CHECK_THROWS_AS(quiet.run([] { throw std::runtime_error("oh"); }), std::runtime_error);
  int calls = 0;
  quiet.run([&] { ++calls; });
  CHECK(calls == 1);
}

}  // namespace
}  // namespace servolley
