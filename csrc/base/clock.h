#pragma once

#include <chrono>
#include <cstdint>

namespace servolley {

// Steady time everywhere; `now` is an argument of everything that decides (see batching, net).
using Clock = std::chrono::steady_clock;
using TimePoint = Clock::time_point;
using Duration = Clock::duration;

inline constexpr TimePoint kNever = TimePoint::max();

inline std::int64_t to_ns(Duration d) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(d).count();
}

// `start + timeout`, saturating at kNever: a client may name any 64-bit number of microseconds.
inline TimePoint deadline_after(TimePoint start, std::uint64_t timeout_us) {
  const auto room = std::chrono::duration_cast<std::chrono::microseconds>(kNever - start).count();
  if (timeout_us >= static_cast<std::uint64_t>(room)) return kNever;
  return start + std::chrono::microseconds(timeout_us);
}

}  // namespace servolley
