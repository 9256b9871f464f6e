#pragma once

// Frames that are ready for the socket, in order.

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <vector>

#include "memory/payload.h"
#include "memory/pool.h"

namespace servolley::net {

class FrameOutput {
 public:
  // Pieces up to this are cheaper to copy than to send on their own.
  static constexpr std::size_t kCopyBytes = 4096;

  explicit FrameOutput(Pool& pool) : pool_(pool) {}
  FrameOutput(const FrameOutput&) = delete;
  FrameOutput& operator=(const FrameOutput&) = delete;

  // False: there was no memory, and the connection cannot go on.
  bool copy(const void* bytes, std::size_t size);
  void add(Buffer owner, const std::byte* data, std::size_t size);

  std::size_t output(iovec* pieces, std::size_t count) const;
  std::size_t size() const { return size_; }
  void sent(std::size_t bytes);
  // Moves everything out. False: there was no memory, and the connection cannot go on.
  bool take(Payload& output);
  void clear();

 private:
  // A lone small answer costs no allocation: it is framed inside the connection itself.
  static constexpr std::size_t kInlineBytes = 1024;
  static constexpr std::size_t kArenaBytes = 16 << 10;
  static constexpr std::size_t kKeepPieces = 256;

  std::byte* room(std::size_t bytes, const Buffer*& owner);
  bool empty() const { return first_piece_ == pieces_.size(); }
  void rest();

  Pool& pool_;
  std::vector<Segment> pieces_;  // before first_piece_: sent
  std::size_t first_piece_ = 0;
  std::size_t size_ = 0;
  Buffer arena_;
  std::size_t arena_used_ = 0;
  std::size_t inline_used_ = 0;
  std::array<std::byte, kInlineBytes> inline_;
};

}  // namespace servolley::net
