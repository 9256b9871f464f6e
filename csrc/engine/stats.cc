#include "engine/stats.h"

#include <algorithm>
#include <bit>

namespace servolley::engine {
namespace {

// Clients choose how many rows they send. Sizes up to this always have an entry of their own.
constexpr std::int64_t kSmallRows = 128;
// Larger ones have, until there are so many entries; then they are counted by powers of two.
constexpr std::size_t kExactEntries = 256;

}  // namespace

BatchSizeStats& ServableStats::batch_of(std::int64_t rows) {
  const auto place_of = [this](std::int64_t wanted) {
    return std::lower_bound(batches.begin(), batches.end(), wanted,
                            [](const BatchSizeStats& b, std::int64_t r) { return b.rows < r; });
  };
  auto at = place_of(rows);
  if (at != batches.end() && at->rows == rows) return *at;
  if (rows > kSmallRows && batches.size() >= kExactEntries) {
    rows = static_cast<std::int64_t>(std::bit_ceil(static_cast<std::uint64_t>(rows)));
    at = place_of(rows);
    if (at != batches.end() && at->rows == rows) return *at;
  }
  return *batches.insert(at, BatchSizeStats{.rows = rows});
}

}  // namespace servolley::engine
