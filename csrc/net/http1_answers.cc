#include "net/http1_answers.h"

#include <algorithm>
#include <utility>

#include "net/heap_buffer.h"
#include "net/http1_render.h"

namespace servolley::net {

std::uint64_t AnswerQueue::open(bool head_only) {
  if (next_ - first_ == ring_.size()) grow_ring();
  Slot& opened = slot(next_);
  opened.answered = false;
  opened.head_only = head_only;
  opened.close = false;
  ++open_count_;
  return next_++;
}

bool AnswerQueue::is_open(std::uint64_t exchange) const {
  return exchange >= first_ && exchange < next_ && !slot(exchange).answered;
}

void AnswerQueue::grow_ring() {
  std::vector<Slot> larger(std::max<std::size_t>(ring_.size() * 2, 2));
  for (std::uint64_t exchange = first_; exchange != next_; ++exchange) {
    larger[exchange & (larger.size() - 1)] = std::move(slot(exchange));
  }
  ring_ = std::move(larger);
}

std::byte* AnswerQueue::room(std::size_t bytes, Buffer& owner) {
  if (bytes <= kInlineBytes - inline_used_ && !arena_) {
    return inline_.data() + std::exchange(inline_used_, inline_used_ + bytes);
  }
  if (!arena_ || bytes > arena_.capacity() - arena_used_) {
    // A lone answer gets what it needs; one that comes behind others is likely not the last.
    const std::size_t wanted = inline_used_ || arena_ ? std::max(bytes, kArenaBytes) : bytes;
    auto allocated = pool_.allocate(wanted);
    arena_ = allocated ? std::move(*allocated) : heap_buffer(wanted);
    arena_used_ = 0;
    if (!arena_) return nullptr;
  }
  owner = arena_.share();
  return arena_.data() + std::exchange(arena_used_, arena_used_ + bytes);
}

bool AnswerQueue::answer(std::uint64_t exchange, const ResponseHead& head, Payload& body,
                         bool close) {
  Slot& answered = slot(exchange);
  const std::size_t length = body.size();
  if (answered.head_only || !status_has_body(head.status)) body.clear();

  const HeadPieces pieces(head, length, close);
  std::size_t bytes = pieces.size();
  for (const Segment& segment : body.segments()) {
    if (!segment.owner || segment.size <= kCopyBytes) bytes += segment.size;
  }
  Buffer owner;
  std::byte* const begin = room(bytes, owner);
  if (!begin) {
    body.clear();
    return false;
  }

  Slot* const held = exchange == first_ ? nullptr : &answered;
  std::byte* start = begin;  // of what was copied and not emitted yet
  std::byte* end = begin + pieces.write(reinterpret_cast<char*>(begin));
  for (Segment& segment : body.segments()) {
    if (!segment.owner || segment.size <= kCopyBytes) {
      end = std::copy_n(segment.data, segment.size, end);
      continue;
    }
    emit(held, owner.share(), start, static_cast<std::size_t>(end - start));
    emit(held, std::move(segment.owner), segment.data, segment.size);
    start = end;
  }
  if (end != start) emit(held, std::move(owner), start, static_cast<std::size_t>(end - start));
  body.clear();

  answered.answered = true;
  answered.close = close;
  --open_count_;
  if (!held) release_held();
  return true;
}

void AnswerQueue::emit(Slot* held, Buffer owner, const std::byte* data, std::size_t size) {
  if (size == 0) return;
  if (!held) return enqueue(std::move(owner), data, size);
  held->held.push_back({std::move(owner), data, size});
  unsent_bytes_ += size;
}

void AnswerQueue::enqueue(Buffer owner, const std::byte* data, std::size_t size) {
  unsent_bytes_ += size;
  if (has_output()) {
    Segment& last = pieces_.back();
    // Answers rendered one behind the other go out as one piece. Neighbours in memory belong
    // together only if they have the same owner.
    if (last.data + last.size == data && last.owner.data() == owner.data()) {
      last.size += size;
      return;
    }
  } else {
    pieces_.clear();
    first_piece_ = 0;
  }
  pieces_.push_back({std::move(owner), data, size});
}

void AnswerQueue::release_held() {
  while (first_ != next_ && slot(first_).answered) {
    Slot& ready = slot(first_++);
    for (Segment& segment : ready.held) {
      unsent_bytes_ -= segment.size;
      enqueue(std::move(segment.owner), segment.data, segment.size);
    }
    ready.held.clear();
    if (ready.close) return forget_calls();
  }
}

void AnswerQueue::forget_calls() {
  for (; first_ != next_; ++first_) {
    Slot& forgotten = slot(first_);
    for (const Segment& segment : forgotten.held) unsent_bytes_ -= segment.size;
    forgotten.held.clear();
  }
  open_count_ = 0;
}

std::size_t AnswerQueue::output(iovec* pieces, std::size_t count) const {
  std::size_t filled = 0;
  for (std::size_t i = first_piece_; i < pieces_.size() && filled < count; ++i) {
    // iovec is for both directions and so has no const.
    pieces[filled++] = {const_cast<std::byte*>(pieces_[i].data), pieces_[i].size};
  }
  return filled;
}

void AnswerQueue::sent(std::size_t bytes) {
  unsent_bytes_ -= std::min(bytes, unsent_bytes_);
  while (bytes && has_output()) {
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
  if (!has_output()) {
    rest();
  } else if (first_piece_ >= kKeepPieces && first_piece_ * 2 >= pieces_.size()) {
    pieces_.erase(pieces_.begin(), pieces_.begin() + static_cast<std::ptrdiff_t>(first_piece_));
    first_piece_ = 0;
  }
}

bool AnswerQueue::take(Payload& output) {
  for (std::size_t i = first_piece_; i < pieces_.size(); ++i) {
    Segment& piece = pieces_[i];
    if (!piece.owner) {  // inside this queue, or static
      auto allocated = pool_.allocate(piece.size);
      Buffer copy = allocated ? std::move(*allocated) : heap_buffer(piece.size);
      if (!copy) return false;
      std::copy_n(piece.data, piece.size, copy.data());
      piece.data = copy.data();
      piece.owner = std::move(copy);
    }
    unsent_bytes_ -= piece.size;
    output.add(std::move(piece.owner), piece.data, piece.size);
  }
  rest();
  return true;
}

// Everything that was in turn has been sent.
void AnswerQueue::rest() {
  pieces_.clear();
  first_piece_ = 0;
  if (pieces_.capacity() > kKeepPieces) pieces_.shrink_to_fit();
  if (first_ + open_count_ != next_) return;  // answers are held back and may lie in the arena
  arena_.reset();
  arena_used_ = 0;
  inline_used_ = 0;
  if (first_ == next_ && ring_.size() > kKeepPieces) ring_ = std::vector<Slot>();
}

void AnswerQueue::abort() {
  forget_calls();
  pieces_.clear();
  unsent_bytes_ = 0;
  rest();
}

}  // namespace servolley::net
