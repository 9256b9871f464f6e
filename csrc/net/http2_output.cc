#include "net/http2_output.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "net/heap_buffer.h"

namespace servolley::net {

// Room that stays where it is until it is sent; nullptr without memory. `owner` stays null for room
// inside this object.
std::byte* FrameOutput::room(std::size_t bytes, const Buffer*& owner) {
  if (bytes <= kInlineBytes - inline_used_ && !arena_) {
    return inline_.data() + std::exchange(inline_used_, inline_used_ + bytes);
  }
  if (!arena_ || bytes > arena_.capacity() - arena_used_) {
    const std::size_t wanted = std::max(bytes, kArenaBytes);
    auto allocated = pool_.allocate(wanted);
    arena_ = allocated ? std::move(*allocated) : heap_buffer(wanted);
    arena_used_ = 0;
    if (!arena_) return nullptr;
  }
  owner = &arena_;
  return arena_.data() + std::exchange(arena_used_, arena_used_ + bytes);
}

bool FrameOutput::copy(const void* bytes, std::size_t size) {
  const Buffer* owner = nullptr;
  std::byte* const at = room(size, owner);
  if (!at) return false;
  std::memcpy(at, bytes, size);
  size_ += size;
  if (!empty()) {
    Segment& last = pieces_.back();
    // Neighbours in memory belong together only if they have the same owner.
    if (last.data + last.size == at && last.owner.data() == (owner ? owner->data() : nullptr)) {
      last.size += size;
      return true;
    }
  }
  pieces_.push_back({owner ? owner->share() : Buffer(), at, size});
  return true;
}

void FrameOutput::add(Buffer owner, const std::byte* data, std::size_t size) {
  if (size == 0) return;
  size_ += size;
  pieces_.push_back({std::move(owner), data, size});
}

std::size_t FrameOutput::output(iovec* pieces, std::size_t count) const {
  std::size_t filled = 0;
  for (std::size_t i = first_piece_; i < pieces_.size() && filled < count; ++i) {
    // iovec is for both directions and so has no const.
    pieces[filled++] = {const_cast<std::byte*>(pieces_[i].data), pieces_[i].size};
  }
  return filled;
}

void FrameOutput::sent(std::size_t bytes) {
  size_ -= std::min(bytes, size_);
  while (bytes && !empty()) {
    Segment& piece = pieces_[first_piece_];
    if (bytes < piece.size) {
      piece.data += bytes;
      piece.size -= bytes;
      break;
    }
    bytes -= piece.size;
    piece.owner.reset();
    ++first_piece_;
  }
  if (empty()) {
    rest();
  } else if (first_piece_ >= kKeepPieces && first_piece_ * 2 >= pieces_.size()) {
    pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(first_piece_));
    first_piece_ = 0;
  }
}

bool FrameOutput::take(Payload& output) {
  for (; !empty(); ++first_piece_) {
    Segment& piece = pieces_[first_piece_];
    if (!piece.owner) {
      auto allocated = pool_.allocate(piece.size);
      Buffer copied = allocated ? std::move(*allocated) : heap_buffer(piece.size);
      if (!copied) return false;
      std::memcpy(copied.data(), piece.data, piece.size);
      piece.data = copied.data();
      piece.owner = std::move(copied);
    }
    size_ -= piece.size;
    output.add(std::move(piece.owner), piece.data, piece.size);
  }
  rest();
  return true;
}

void FrameOutput::clear() {
  pieces_.clear();
  first_piece_ = 0;
  size_ = 0;
  rest();
}

// Everything has been sent.
void FrameOutput::rest() {
  pieces_.clear();
  first_piece_ = 0;
  if (pieces_.capacity() > kKeepPieces) pieces_.shrink_to_fit();
  arena_.reset();
  arena_used_ = 0;
  inline_used_ = 0;
}

}  // namespace servolley::net
