#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>

#include "base/status.h"
#include "memory/buffer.h"
#include "memory/pool.h"

namespace servolley {

// Grows a pooled buffer by writing behind its end. Writers of many bytes reserve() once and then
// fill tail() directly. The limit is checked before anything is allocated.
class BufferWriter {
 public:
  explicit BufferWriter(Pool& pool, std::size_t limit_bytes = static_cast<std::size_t>(-1))
      : pool_(&pool), limit_(limit_bytes) {}

  // Makes room for `more` bytes behind the end.
  Status reserve(std::size_t more) {
    if (end_ - size_ >= more) return {};
    return grow(more);
  }
  std::byte* tail() const { return buffer_.data() + size_; }
  // How much may be written there: never beyond the limit, however large the buffer is.
  std::size_t room() const { return end_ - size_; }
  // Counts bytes that were written at tail().
  void advance(std::size_t written) { size_ += written; }
  void append_reserved(const void* data, std::size_t bytes) {
    std::memcpy(tail(), data, bytes);
    size_ += bytes;
  }
  void append_reserved(std::string_view text) { append_reserved(text.data(), text.size()); }
  Status append(const void* data, std::size_t bytes) {
    SERVOLLEY_TRY(reserve(bytes));
    if (bytes) append_reserved(data, bytes);
    return {};
  }
  Status append(std::string_view text) { return append(text.data(), text.size()); }

  std::size_t size() const { return size_; }
  std::byte* data() const { return buffer_.data(); }
  // Hands over the buffer; the writer is empty again.
  Buffer take() {
    size_ = 0;
    end_ = 0;
    return std::move(buffer_);
  }
  // Starts again in the same buffer.
  void clear() { size_ = 0; }

 private:
  Status grow(std::size_t more);

  Pool* pool_;
  Buffer buffer_;
  std::size_t size_ = 0;
  std::size_t end_ = 0;  // the lesser of the buffer's capacity and the limit
  std::size_t limit_;
};

}  // namespace servolley
