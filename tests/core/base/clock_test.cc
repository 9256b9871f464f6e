#include "base/clock.h"

#include <doctest/doctest.h>

#include <limits>

using namespace servolley;

TEST_CASE("deadlines are the start plus the timeout, and never wrap") {
  const TimePoint start = TimePoint() + std::chrono::hours(1000);
  CHECK(deadline_after(start, 0) == start);
  CHECK(deadline_after(start, 1500) - start == std::chrono::microseconds(1500));
  const auto room = static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(kNever - start).count());
  CHECK(deadline_after(start, room - 1) < kNever);
  for (const std::uint64_t huge :
       {room, room + 1, std::uint64_t{1} << 63, std::numeric_limits<std::uint64_t>::max()}) {
    CHECK(deadline_after(start, huge) == kNever);
  }
  CHECK(deadline_after(kNever, 1) == kNever);
  CHECK(to_ns(std::chrono::microseconds(3)) == 3000);
}
