#pragma once

#include <algorithm>

#include "base/clock.h"

namespace servolley::net {

// So many events per second, and as many at once.
class RateLimit {
 public:
  explicit RateLimit(std::uint32_t per_second)
      : interval_(Duration(std::chrono::seconds(1)) / std::max<std::uint32_t>(per_second, 1)) {}

  // False: too many.
  bool allow(TimePoint now) {
    paid_until_ = std::max(paid_until_, now) + interval_;
    return paid_until_ - now <= std::chrono::seconds(1);
  }
  // Something was done for the peer that entitles it to one event more.
  void credit() { paid_until_ -= std::min(interval_, paid_until_ - TimePoint{}); }

 private:
  Duration interval_;
  TimePoint paid_until_{};
};

}  // namespace servolley::net
