#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>

#include "codec/json_tensor.h"
#include "codec/messages.h"

namespace servolley::codec {

// Pooled memory that elements are decoded into. Two ways to begin: for a declared tensor it is as
// large as the shape says and never grows; for an inferred one it grows as the text goes on.
class ElementStore {
 public:
  explicit ElementStore(const TensorSource& source)
      : source_(source), text_begin_(source.reader.at()) {}

  std::byte* begin() const { return buffer_.data(); }
  std::byte* end_of_room() const { return buffer_.data() + room_; }
  const TensorSource& source() const { return source_; }

  // Takes exactly `bytes` from the budget.
  bool begin_declared(std::size_t bytes) {
    fixed_ = true;
    charged_ = bytes;
    return source_.budget.take(bytes) ? allocate(bytes, 0) : refuse();
  }
  bool begin_inferred(std::size_t bytes) {
    return allocate(std::min(bytes, source_.budget.left()), 0);
  }

  // Makes room for `needed` bytes behind `used`. How much of the text the elements so far took says
  // how much the rest of it will need.
  bool grow(std::size_t used, std::size_t needed) {
    if (fixed_) {
      return source_.reader.fail(invalid_argument(
          message("unexpected number of elements for input ", quoted(source_.input),
                  ": its data has more than its shape holds")));
    }
    // Only bytes that hold elements count, so that several growing tensors do not starve each
    // other.
    if (!charge(used) || needed > source_.budget.left()) return refuse();
    const auto text_done = static_cast<double>(source_.reader.at() - text_begin_) + 1;
    const auto text_left = static_cast<double>(source_.reader.left());
    const auto rest = static_cast<double>(used) / text_done * text_left * 1.02;
    const std::size_t more = std::max({needed, static_cast<std::size_t>(rest), used / 4});
    return allocate(used + std::min(more, source_.budget.left()), used);
  }

  // Hands the tensor over.
  bool finish(std::size_t used, const Shape& shape, InputTensor& out) {
    if (!fixed_ && !charge(used)) return refuse();
    out.view = {source_.dtype, shape, buffer_.data(), used};
    out.owner = std::move(buffer_);
    return true;
  }

 private:
  bool charge(std::size_t used) {
    const std::size_t more = used - charged_;
    charged_ = used;
    return source_.budget.take(more);
  }
  bool refuse() { return source_.reader.fail(source_.budget.exceeded()); }
  bool allocate(std::size_t bytes, std::size_t keep) {
    auto bigger = source_.pool.allocate(std::max<std::size_t>(bytes, 1));
    if (!bigger) return source_.reader.fail(std::move(bigger).error());
    if (keep) std::memcpy(bigger->data(), buffer_.data(), keep);
    buffer_ = std::move(*bigger);
    // What the size class adds is room too, unless the shape says where to stop.
    room_ = fixed_ ? bytes : buffer_.capacity();
    return true;
  }

  const TensorSource source_;
  const char* text_begin_;
  Buffer buffer_;
  std::size_t room_ = 0;
  std::size_t charged_ = 0;
  bool fixed_ = false;
};

}  // namespace servolley::codec
