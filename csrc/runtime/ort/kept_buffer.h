#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

#include "memory/pool.h"

namespace servolley::ort {

// Memory that a lane keeps from batch to batch: grows to what they need, and goes back to its pool
// when many of them in a row have needed far less. Nothing of a batch may be under way in it then.
class KeptBuffer {
 public:
  // What is smaller stays.
  static constexpr std::size_t kSmallBytes = std::size_t{1} << 20;

  // At least `bytes`; the content is undefined if it has to grow.
  Status reserve(Pool& pool, std::size_t bytes) {
    most_ = std::max(most_, bytes);
    if (holds(bytes)) return {};
    buffer_.reset();  // first: the pool may need the room
    auto larger = pool.allocate(bytes);
    if (!larger) return std::move(larger).error();
    buffer_ = std::move(*larger);
    return {};
  }
  // Ends a row of batches. True if the memory has gone.
  bool shrink() {
    const std::size_t most = std::exchange(most_, 0);
    if (buffer_.capacity() <= kSmallBytes || buffer_.capacity() / 4 <= most) return false;
    buffer_.reset();
    return true;
  }
  bool holds(std::size_t bytes) const { return buffer_ && buffer_.capacity() >= bytes; }
  std::byte* data() const { return buffer_.data(); }
  std::size_t capacity() const { return buffer_.capacity(); }
  void leak() { buffer_.leak(); }

 private:
  Buffer buffer_;
  std::size_t most_ = 0;  // bytes that a batch has needed since the last shrink()
};

}  // namespace servolley::ort
