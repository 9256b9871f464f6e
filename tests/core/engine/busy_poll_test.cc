#include "engine/busy_poll.h"

#include <doctest/doctest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>

namespace servolley::engine {
namespace {

constexpr Duration kLongest = std::chrono::milliseconds(5);

struct Pair {
  Pair() { REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends.data()) == 0); }
  ~Pair() {
    ::close(ends[0]);
    ::close(ends[1]);
  }
  void send() { REQUIRE(::write(ends[1], "x", 1) == 1); }
  std::array<int, 2> ends{};
};

// Whether an answer is followed by a look of full length.
bool looks(BusyPoll& poll, const Pair& pair) {
  poll.asked(Clock::now());
  const TimePoint before = Clock::now();
  poll.look(pair.ends[0], -1);
  return Clock::now() - before >= kLongest;
}

int answers_before_a_look(BusyPoll& poll, const Pair& pair) {
  for (int answers = 0; answers < 1000; ++answers) {
    if (looks(poll, pair)) return answers;
  }
  return -1;
}

TEST_CASE("only a row of quick requests is worth a look, and one in vain makes it rarer") {
  BusyPoll poll(kLongest);
  const Pair pair;
  const int first = answers_before_a_look(poll, pair);
  CHECK(first > 3);
  const int second = answers_before_a_look(poll, pair);
  CHECK(second > first);
  CHECK(answers_before_a_look(poll, pair) > second);
}

TEST_CASE("a look ends when there is something to read, on either descriptor") {
  for (const bool other : {false, true}) {
    BusyPoll poll(std::chrono::seconds(30));
    Pair mine;
    Pair others;
    (other ? others : mine).send();
    for (int i = 0; i < 100; ++i) {
      poll.asked(Clock::now());
      poll.look(mine.ends[0], others.ends[0]);  // would take half a minute
    }
  }
}

TEST_CASE("slow clients, none at all and a length of zero get no look") {
  const Pair pair;
  BusyPoll never(Duration::zero());
  for (int i = 0; i < 100; ++i) {
    never.asked(Clock::now());
    never.look(pair.ends[0], -1);
  }
  BusyPoll poll(std::chrono::seconds(30));
  TimePoint late = Clock::now();
  for (int i = 0; i < 100; ++i) {
    late += std::chrono::hours(1);
    poll.asked(late);
    poll.look(pair.ends[0], -1);
  }
  for (int i = 0; i < 100; ++i) {
    poll.asked(Clock::now());
    poll.look(-1, -1);
  }
}

}  // namespace
}  // namespace servolley::engine
