#include "engine/stats.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>

namespace servolley::engine {
namespace {

bool ascending(const ServableStats& stats) {
  return std::is_sorted(
      stats.batches.begin(), stats.batches.end(),
      [](const BatchSizeStats& a, const BatchSizeStats& b) { return a.rows <= b.rows; });
}

TEST_CASE("batch sizes are counted exactly while they are few") {
  ServableStats stats;
  for (const std::int64_t rows : {5, 1000, 1, 5, 384, 1000, 5}) ++stats.batch_of(rows).executions;
  REQUIRE(stats.batches.size() == 4);
  CHECK(ascending(stats));
  CHECK(stats.batch_of(5).executions == 3);
  CHECK(stats.batch_of(384).executions == 1);
  CHECK(stats.batch_of(1000).executions == 2);
}

TEST_CASE("whatever sizes clients choose, the entries are bounded and nothing is lost") {
  for (const bool downwards : {false, true}) {
    ServableStats stats;
    constexpr std::int64_t kSizes = 100'000;
    for (std::int64_t i = 1; i <= kSizes; ++i) {
      ++stats.batch_of(downwards ? kSizes + 1 - i : i).executions;
    }
    for (std::int64_t rows = 1; rows <= std::numeric_limits<std::uint32_t>::max();
         rows = rows * 2 + 1) {
      ++stats.batch_of(rows).executions;
    }
    CHECK(stats.batches.size() < 420);
    CHECK(ascending(stats));
    std::uint64_t executions = 0;
    for (const BatchSizeStats& size : stats.batches) executions += size.executions;
    CHECK(executions == kSizes + 32);
    // Small sizes have not suffered.
    for (std::int64_t rows = 1; rows <= 128; ++rows) {
      CHECK(stats.batch_of(rows).executions == ((rows & (rows + 1)) == 0 ? 2 : 1));
    }
    // A large one is counted where it fits, from then on.
    const auto before = stats.batch_of(1 << 20).executions;
    ++stats.batch_of((1 << 20) - 5).executions;
    CHECK(stats.batch_of(1 << 20).executions == before + 1);
  }
}

}  // namespace
}  // namespace servolley::engine
