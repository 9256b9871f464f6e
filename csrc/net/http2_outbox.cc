#include "net/http2_outbox.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "net/heap_buffer.h"

namespace servolley::net {

bool Outbox::add_message(Payload& body, bool compressed, Pool& pool) {
  const auto length = static_cast<std::uint32_t>(body.size());
  const std::array<std::uint8_t, 5> prefix = {
      static_cast<std::uint8_t>(compressed), static_cast<std::uint8_t>(length >> 24),
      static_cast<std::uint8_t>(length >> 16), static_cast<std::uint8_t>(length >> 8),
      static_cast<std::uint8_t>(length)};
  add_small(prefix.data(), prefix.size());
  for (Segment& segment : body.segments()) {
    if (segment.size <= kSmallBytes) {
      add_small(segment.data, segment.size);
      continue;
    }
    if (!segment.owner) {
      auto allocated = pool.allocate(segment.size);
      Buffer copied = allocated ? std::move(*allocated) : heap_buffer(segment.size);
      if (!copied) return false;
      std::memcpy(copied.data(), segment.data, segment.size);
      segment.data = copied.data();
      segment.owner = std::move(copied);
    }
    size_ += segment.size;
    pieces_.push_back({std::move(segment.owner), segment.data, 0, segment.size});
  }
  body.clear();
  return true;
}

void Outbox::add_small(const void* bytes, std::size_t size) {
  const auto* const begin = static_cast<const std::byte*>(bytes);
  const std::size_t at = small_.size();
  small_.insert(small_.end(), begin, begin + size);
  size_ += size;
  // What lies in small_ without a piece of an owner between goes out as one.
  if (first_piece_ < pieces_.size() && !pieces_.back().owner) {
    pieces_.back().size += size;
  } else {
    pieces_.push_back({{}, nullptr, at, size});
  }
}

bool Outbox::move_to(FrameOutput& output, std::size_t bytes) {
  size_ -= bytes;
  while (bytes) {
    Piece& piece = pieces_[first_piece_];
    const std::size_t part = std::min(bytes, piece.size);
    const std::byte* const data = piece.owner ? piece.data : small_.data() + piece.at;
    if (!piece.owner || part <= FrameOutput::kCopyBytes) {
      if (!output.copy(data, part)) return false;
    } else if (part == piece.size) {
      output.add(std::move(piece.owner), data, part);
    } else {
      output.add(piece.owner.share(), data, part);
    }
    bytes -= part;
    piece.size -= part;
    if (data == piece.data) {
      piece.data += part;
    } else {
      piece.at += part;
      small_moved_ += part;
    }
    if (piece.size == 0) {
      piece.owner.reset();
      ++first_piece_;
    }
  }
  drop_moved();
  return true;
}

// A stream that is never quite empty must not keep what it has sent.
void Outbox::drop_moved() {
  if (first_piece_ == pieces_.size()) {
    pieces_.clear();
    first_piece_ = 0;
    small_.clear();
    small_moved_ = 0;
    return;
  }
  if (first_piece_ >= kKeepPieces && first_piece_ * 2 >= pieces_.size()) {
    pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(first_piece_));
    first_piece_ = 0;
  }
  if (small_moved_ >= FrameOutput::kCopyBytes && small_moved_ * 2 >= small_.size()) {
    small_.erase(small_.begin(), small_.begin() + static_cast<std::ptrdiff_t>(small_moved_));
    for (std::size_t i = first_piece_; i < pieces_.size(); ++i) {
      if (!pieces_[i].owner) pieces_[i].at -= small_moved_;
    }
    small_moved_ = 0;
  }
}

void Outbox::clear() {
  pieces_.clear();
  first_piece_ = 0;
  small_.clear();
  small_moved_ = 0;
  size_ = 0;
  if (pieces_.capacity() > kKeepPieces) pieces_ = std::vector<Piece>();
  if (small_.capacity() > kKeepBytes) small_ = std::vector<std::byte>();
}

}  // namespace servolley::net
