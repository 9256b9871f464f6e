#pragma once

#include <cstddef>
#include <span>
#include <string_view>
#include <vector>

#include "memory/buffer.h"

namespace servolley {

// A view of bytes with the lease that keeps them alive. An empty owner means the bytes outlive the
// use (constants, or memory that the receiver copies before it returns).
struct Segment {
  Buffer owner;
  const std::byte* data = nullptr;
  std::size_t size = 0;
};

// Bytes to be sent, in order, from several places. Reused between answers: clear() keeps the
// capacity.
class Payload {
 public:
  void add(Buffer owner, const std::byte* data, std::size_t size) {
    if (size == 0) return;
    segments_.push_back({std::move(owner), data, size});
    total_ += size;
  }
  // Puts a segment before all others.
  void prepend(Buffer owner, const std::byte* data, std::size_t size) {
    segments_.insert(segments_.begin(), Segment{std::move(owner), data, size});
    total_ += size;
  }
  void add_static(std::string_view text) {
    add({}, reinterpret_cast<const std::byte*>(text.data()), text.size());
  }
  void clear() {
    segments_.clear();
    total_ = 0;
  }
  std::size_t size() const { return total_; }
  std::span<Segment> segments() { return segments_; }
  std::span<const Segment> segments() const { return segments_; }

 private:
  std::vector<Segment> segments_;
  std::size_t total_ = 0;
};

}  // namespace servolley
