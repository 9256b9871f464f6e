#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace servolley::engine {

// Chooses among a few by weight, without chance: in every stretch of as many choices as the weights
// come to each is chosen as often as its weight says, and spread evenly over it (smooth weighted
// round robin, on integers).
class WeightedChoice {
 public:
  // Weights of zero are never chosen.
  void add(std::uint32_t weight) {
    entries_.push_back({.weight = weight, .credit = 0});
    total_ += weight;
  }
  // Nothing to choose from.
  bool empty() const { return total_ == 0; }
  // Whether it has the same weights in the same order, however far it has got.
  bool same_weights(const WeightedChoice& other) const {
    return std::equal(entries_.begin(), entries_.end(), other.entries_.begin(),
                      other.entries_.end(),
                      [](const Entry& a, const Entry& b) { return a.weight == b.weight; });
  }
  // The place of the next one, in the order of add(). Not on an empty choice.
  std::size_t next() {
    std::size_t best = 0;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      entries_[i].credit += entries_[i].weight;
      if (entries_[i].credit > entries_[best].credit) best = i;
    }
    entries_[best].credit -= total_;
    return best;
  }

 private:
  struct Entry {
    std::int64_t weight;
    std::int64_t credit;
  };
  std::vector<Entry> entries_;
  std::int64_t total_ = 0;
};

}  // namespace servolley::engine
