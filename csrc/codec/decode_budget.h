#pragma once

#include <cstddef>
#include <string>

#include "base/status.h"

namespace servolley::codec {

// What the decoded tensors of one request may take together. Counts elements that exist, not room
// that was reserved for them.
class DecodeBudget {
 public:
  explicit DecodeBudget(std::size_t limit_bytes) : limit_(limit_bytes) {}
  std::size_t left() const { return limit_ - used_; }
  std::size_t limit() const { return limit_; }
  bool take(std::size_t bytes) {
    if (bytes > left()) return false;
    used_ += bytes;
    return true;
  }
  Status exceeded() const {
    return too_large("the decoded tensors of the request take more than " + std::to_string(limit_) +
                     " bytes");
  }

 private:
  std::size_t limit_;
  std::size_t used_ = 0;
};

}  // namespace servolley::codec
