#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace servolley {

// Counts observations in buckets with fixed upper bounds (inclusive), plus one for everything
// above. One thread writes and reads; no atomics. Bounds must outlive the histogram (they are
// constants).
template <std::size_t N>
class Histogram {
 public:
  explicit constexpr Histogram(const std::array<std::uint64_t, N>& upper_bounds)
      : bounds_(&upper_bounds) {}

  void observe(std::uint64_t value) {
    std::size_t i = 0;
    while (i < N && value > (*bounds_)[i]) ++i;
    ++counts_[i];
    sum_ += value;
  }

  std::span<const std::uint64_t> upper_bounds() const { return *bounds_; }
  // N + 1 counts, not cumulative; the last is everything above the largest bound.
  std::span<const std::uint64_t> counts() const { return counts_; }
  std::uint64_t sum() const { return sum_; }
  std::uint64_t count() const {
    std::uint64_t total = 0;
    for (auto c : counts_) total += c;
    return total;
  }

 private:
  const std::array<std::uint64_t, N>* bounds_;
  std::array<std::uint64_t, N + 1> counts_{};
  std::uint64_t sum_ = 0;
};

// 50 us to 10 s; fine at the bottom, where an inference server lives.
inline constexpr std::array<std::uint64_t, 16> kLatencyBoundsNs = {
    50'000,      100'000,     200'000,       400'000,       800'000,    1'500'000,
    3'000'000,   6'000'000,   12'000'000,    25'000'000,    50'000'000, 100'000'000,
    250'000'000, 500'000'000, 2'000'000'000, 10'000'000'000};

inline constexpr std::array<std::uint64_t, 11> kBatchRowBounds = {1,  2,   4,   8,   16,  32,
                                                                  64, 128, 256, 512, 1024};

using LatencyHistogram = Histogram<kLatencyBoundsNs.size()>;
using BatchRowHistogram = Histogram<kBatchRowBounds.size()>;

}  // namespace servolley
