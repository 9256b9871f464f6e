#pragma once

// The way out of a connection: answers rendered in whatever order they are given, sent in the
// order of the calls.

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "memory/payload.h"
#include "memory/pool.h"
#include "net/http1.h"

namespace servolley::net {

class AnswerQueue {
 public:
  explicit AnswerQueue(Pool& pool) : pool_(pool) {}
  AnswerQueue(const AnswerQueue&) = delete;
  AnswerQueue& operator=(const AnswerQueue&) = delete;

  // A new call, which waits for its answer. `head_only`: a HEAD call, answered without its body.
  std::uint64_t open(bool head_only);
  bool is_open(std::uint64_t exchange) const;
  bool is_last(std::uint64_t exchange) const { return exchange + 1 == next_; }
  std::size_t open_count() const { return open_count_; }

  // Renders the answer of an open exchange and empties `body`; sends it when its turn has come.
  // With `close`, calls behind it will not be answered any more. False: there was no memory, and
  // the connection cannot go on.
  bool answer(std::uint64_t exchange, const ResponseHead& head, Payload& body, bool close);
  // Sends `text` (of static storage) now; nothing may be open.
  void interim(std::string_view text) { enqueue({}, as_bytes(text), text.size()); }

  std::size_t output(iovec* pieces, std::size_t count) const;
  bool has_output() const { return first_piece_ < pieces_.size(); }
  // Bytes of answers that were given and not sent yet.
  std::size_t unsent_bytes() const { return unsent_bytes_; }
  void sent(std::size_t bytes);
  // Moves everything unsent to `output`, whose owners keep it alive. False: there was no memory.
  bool take(Payload& output);
  // Forgets all calls and all output.
  void abort();

 private:
  // Answers smaller than this cost no allocation: they are rendered into the connection itself.
  static constexpr std::size_t kInlineBytes = 1024;
  static constexpr std::size_t kArenaBytes = 16 << 10;
  // Segments up to this are cheaper to copy than to send as a piece of their own.
  static constexpr std::size_t kCopyBytes = 4096;
  static constexpr std::size_t kKeepPieces = 64;

  struct Slot {
    bool answered = false;
    bool head_only = false;
    bool close = false;
    std::vector<Segment> held;  // the answer, while calls before it have none
  };

  static const std::byte* as_bytes(std::string_view text) {
    return reinterpret_cast<const std::byte*>(text.data());
  }
  Slot& slot(std::uint64_t exchange) { return ring_[exchange & (ring_.size() - 1)]; }
  const Slot& slot(std::uint64_t exchange) const { return ring_[exchange & (ring_.size() - 1)]; }
  void grow_ring();
  // Room for `bytes` that stays where it is until they are sent; nullptr without memory. `owner`
  // becomes the lease to send them with.
  std::byte* room(std::size_t bytes, Buffer& owner);
  void enqueue(Buffer owner, const std::byte* data, std::size_t size);
  void emit(Slot* held, Buffer owner, const std::byte* data, std::size_t size);
  // Sends what has been held back and whose turn has come.
  void release_held();
  void forget_calls();
  void rest();

  Pool& pool_;
  std::vector<Slot> ring_;  // a power of two; calls first_ .. next_ - 1
  std::uint64_t first_ = 1;
  std::uint64_t next_ = 1;
  std::size_t open_count_ = 0;
  std::vector<Segment> pieces_;  // before first_piece_: sent
  std::size_t first_piece_ = 0;
  std::size_t unsent_bytes_ = 0;
  Buffer arena_;  // where answers go that do not fit into inline_
  std::size_t arena_used_ = 0;
  std::size_t inline_used_ = 0;
  std::array<std::byte, kInlineBytes> inline_;
};

}  // namespace servolley::net
