#include "base/histogram.h"

#include <doctest/doctest.h>

#include <vector>

using namespace servolley;

TEST_CASE("observations fall into the first bucket whose bound is not below them") {
  static constexpr std::array<std::uint64_t, 3> kBounds = {10, 20, 40};
  Histogram<3> histogram(kBounds);
  for (const std::uint64_t value : {0U, 10U, 11U, 20U, 21U, 40U, 41U, 1'000'000U}) {
    histogram.observe(value);
  }
  const auto counts = histogram.counts();
  CHECK(std::vector<std::uint64_t>(counts.begin(), counts.end()) ==
        std::vector<std::uint64_t>{2, 2, 2, 2});
  CHECK(histogram.count() == 8);
  CHECK(histogram.sum() == 0 + 10 + 11 + 20 + 21 + 40 + 41 + 1'000'000);
}

TEST_CASE("the bounds in use rise strictly") {
  for (std::size_t i = 1; i < kLatencyBoundsNs.size(); ++i) {
    CHECK(kLatencyBoundsNs[i - 1] < kLatencyBoundsNs[i]);
  }
  CHECK(kLatencyBoundsNs.front() == 50'000);
  for (std::size_t i = 1; i < kBatchRowBounds.size(); ++i) {
    CHECK(kBatchRowBounds[i - 1] < kBatchRowBounds[i]);
  }
  LatencyHistogram empty(kLatencyBoundsNs);
  CHECK(empty.count() == 0);
  CHECK(empty.counts().size() == empty.upper_bounds().size() + 1);
}
