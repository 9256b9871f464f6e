#include "engine/stats.h"

#include <algorithm>

namespace servolley::engine {

BatchSizeStats& ServableStats::batch_of(std::int64_t rows) {
  auto at = std::lower_bound(batches.begin(), batches.end(), rows,
                             [](const BatchSizeStats& b, std::int64_t r) { return b.rows < r; });
  if (at == batches.end() || at->rows != rows)
    at = batches.insert(at, BatchSizeStats{.rows = rows});
  return *at;
}

}  // namespace servolley::engine
