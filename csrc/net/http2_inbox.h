#pragma once

// Length-prefixed messages put together from DATA frames, whatever their boundaries.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/status.h"
#include "memory/pool.h"
#include "net/http2.h"

namespace servolley::net {

// Where the messages of one connection live until the handler has them, and how much that is.
class MessageMemory {
 public:
  MessageMemory(Pool& pool, std::uint64_t limit_bytes) : pool_(pool), limit_(limit_bytes) {}

  // How far behind the start of its buffer a message begins.
  static constexpr std::size_t lead(std::size_t bytes) { return (64 - bytes % 64) % 64; }

  // A buffer of its own for a message that arrives in parts, and its lead: counted until release().
  Result<Buffer> reserve(std::size_t bytes);
  bool count(std::size_t bytes);
  void release(std::size_t bytes) { held_ -= bytes; }
  std::uint64_t held_bytes() const { return held_; }

  // A copy of a message that arrived in one part. Small ones of one read share a buffer.
  Result<Buffer> copy(std::span<const std::byte> message, std::span<const std::byte>& copied);
  void end_of_read() {
    shared_.reset();
    small_in_read_ = 0;
  }

 private:
  static constexpr std::size_t kSharedBytes = 16 << 10;
  static constexpr std::size_t kSmallBytes = 2 << 10;

  Pool& pool_;
  std::uint64_t limit_;
  std::uint64_t held_ = 0;
  Buffer shared_;
  std::size_t shared_used_ = 0;
  std::size_t small_in_read_ = 0;
};

class Inbox {
 public:
  enum class Outcome : std::uint8_t { kMore, kMessage, kFailed };

  // Takes bytes from the front of `data`: all of them, or up to the end of a message, which is then
  // in `message`. `coding` is what a set compressed flag means.
  Outcome feed(std::span<const std::byte>& data, MessageCoding coding, std::uint64_t limit,
               MessageMemory& memory, GrpcMessage& message);
  const Status& failure() const { return failure_; }
  // In the middle of a message.
  bool partial() const { return prefix_filled_ > 0; }
  // Where the rest of the message under way goes; empty if its length is not known yet.
  std::span<std::byte> room() const {
    return buffer_ ? std::span(place() + filled_, length_ - filled_) : std::span<std::byte>();
  }
  void clear(MessageMemory& memory);

 private:
  std::byte* place() const { return buffer_.data() + MessageMemory::lead(length_); }
  Outcome fail(Status failure);
  Outcome begin_message(MessageCoding coding, std::uint64_t limit);

  std::array<std::uint8_t, 5> prefix_;
  std::uint8_t prefix_filled_ = 0;
  MessageCoding coding_ = MessageCoding::kIdentity;
  Buffer buffer_;  // while a message with a known length is under way
  std::size_t length_ = 0;
  std::size_t filled_ = 0;
  Status failure_;
};

}  // namespace servolley::net
