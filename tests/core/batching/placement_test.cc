#include "batching/placement.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <random>

using servolley::batching::Placement;

TEST_CASE("the instance with the fewest rows under way is next, while it has a free lane") {
  Placement placement;
  CHECK_FALSE(placement.next());
  placement.add(2);
  placement.add(2);
  CHECK(placement.next() == 0);
  placement.launched(0, 8);
  CHECK(placement.next() == 1);
  placement.launched(1, 4);
  CHECK(placement.next() == 1);
  placement.launched(1, 1);
  CHECK(placement.next() == 0);  // the other has less to do, but no lane for more
  placement.launched(0, 1);
  CHECK_FALSE(placement.next());
  placement.finished(0, 8);
  CHECK(placement.next() == 0);
}

TEST_CASE("a retired instance takes nothing, whatever it has free") {
  Placement placement;
  placement.add(1);
  placement.add(1);
  placement.launched(1, 5);
  placement.retire(0);
  CHECK_FALSE(placement.next());
  CHECK_FALSE(placement.none_left());
  placement.finished(1, 5);
  CHECK(placement.next() == 1);
  placement.retire(1);
  CHECK_FALSE(placement.next());
  CHECK(placement.none_left());
}

TEST_CASE("under random batches the loads stay within one batch of each other") {
  constexpr std::uint64_t kLargest = 16;
  std::mt19937 random(5);  // NOLINT: a fixed seed is the point
  Placement placement;
  for (int i = 0; i < 4; ++i) placement.add(1000);
  std::uint64_t rows[4] = {};
  for (int step = 0; step < 2000; ++step) {
    const auto next = placement.next();
    REQUIRE(next);
    const std::uint64_t batch = 1 + random() % kLargest;
    placement.launched(*next, batch);
    rows[*next] += batch;
    const auto [least, most] = std::minmax_element(rows, rows + 4);
    REQUIRE(*most - *least <= kLargest);
  }
}
