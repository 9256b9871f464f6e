#include "batching/placement.h"

#include <algorithm>

namespace servolley::batching {

void Placement::add(int lanes) { loads_.push_back({.free = lanes}); }

void Placement::launched(std::size_t instance, std::uint64_t rows) {
  loads_[instance].rows += rows;
  --loads_[instance].free;
}

void Placement::finished(std::size_t instance, std::uint64_t rows) {
  loads_[instance].rows -= rows;
  ++loads_[instance].free;
}

void Placement::retire(std::size_t instance) { loads_[instance].retired = true; }

std::optional<std::size_t> Placement::next() const {
  std::optional<std::size_t> best;
  for (std::size_t i = 0; i < loads_.size(); ++i) {
    if (loads_[i].retired || loads_[i].free <= 0) continue;
    if (!best || loads_[i].rows < loads_[*best].rows) best = i;
  }
  return best;
}

bool Placement::none_left() const {
  return std::all_of(loads_.begin(), loads_.end(), [](const Load& load) { return load.retired; });
}

}  // namespace servolley::batching
