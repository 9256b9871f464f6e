#include "net/http2_inbox.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace servolley::net {

bool MessageMemory::count(std::size_t bytes) {
  if (bytes > limit_ || held_ > limit_ - bytes) return false;
  held_ += bytes;
  return true;
}

Result<Buffer> MessageMemory::reserve(std::size_t bytes) {
  if (!count(bytes)) {
    return Status(Code::kResourceExhausted, "too many message bytes are under way on this channel");
  }
  auto buffer = pool_.allocate_announced(lead(bytes) + bytes);
  if (!buffer) release(bytes);
  return buffer;
}

Result<Buffer> MessageMemory::copy(std::span<const std::byte> message,
                                   std::span<const std::byte>& copied) {
  const std::size_t bytes = message.size();
  // The first of a read is likely the only one.
  if (bytes > kSmallBytes || small_in_read_++ == 0) {
    auto buffer = pool_.allocate(lead(bytes) + bytes);
    if (buffer) {
      std::byte* const at = buffer->data() + lead(bytes);
      std::memcpy(at, message.data(), bytes);
      copied = {at, bytes};
    }
    return buffer;
  }
  const std::size_t room = lead(bytes) + bytes;
  if (!shared_ || room > kSharedBytes - shared_used_) {
    auto buffer = pool_.allocate(kSharedBytes);
    if (!buffer) return buffer;
    shared_ = std::move(*buffer);
    shared_used_ = 0;
  }
  std::byte* const at = shared_.data() + shared_used_ + lead(bytes);
  shared_used_ += room;
  std::memcpy(at, message.data(), bytes);
  copied = {at, bytes};
  return shared_.share();
}

Inbox::Outcome Inbox::fail(Status failure) {
  failure_ = std::move(failure);
  return Outcome::kFailed;
}

// The prefix is complete.
Inbox::Outcome Inbox::begin_message(MessageCoding coding, std::uint64_t limit) {
  length_ = std::size_t{prefix_[1]} << 24 | std::size_t{prefix_[2]} << 16 |
            std::size_t{prefix_[3]} << 8 | std::size_t{prefix_[4]};
  if (prefix_[0] > 1) return fail(internal_error("a message prefix with unknown flags"));
  if (prefix_[0] == 1 && coding == MessageCoding::kIdentity) {
    return fail(internal_error("a compressed message without grpc-encoding"));
  }
  if (length_ > limit) {
    return fail(Status(Code::kResourceExhausted, "a message of " + std::to_string(length_) +
                                                     " bytes; the limit is " +
                                                     std::to_string(limit)));
  }
  coding_ = prefix_[0] ? coding : MessageCoding::kIdentity;
  filled_ = 0;
  return Outcome::kMore;
}

Inbox::Outcome Inbox::feed(std::span<const std::byte>& data, MessageCoding coding,
                           std::uint64_t limit, MessageMemory& memory, GrpcMessage& message) {
  if (prefix_filled_ < prefix_.size()) {
    const std::size_t part = std::min(prefix_.size() - prefix_filled_, data.size());
    std::memcpy(prefix_.data() + prefix_filled_, data.data(), part);
    prefix_filled_ = static_cast<std::uint8_t>(prefix_filled_ + part);
    data = data.subspan(part);
    if (prefix_filled_ < prefix_.size()) return Outcome::kMore;
    if (begin_message(coding, limit) == Outcome::kFailed) return Outcome::kFailed;
    message.coding = coding_;
    if (length_ <= data.size()) {  // complete in one part
      prefix_filled_ = 0;
      message.bytes = {};
      message.owner.reset();
      if (length_ == 0) return Outcome::kMessage;
      auto copied = memory.copy(data.first(length_), message.bytes);
      if (!copied) return fail(std::move(copied).error());
      message.owner = std::move(*copied);
      data = data.subspan(length_);
      return Outcome::kMessage;
    }
    // In full, but nothing of it is touched before it arrives.
    auto reserved = memory.reserve(length_);
    if (!reserved) return fail(std::move(reserved).error());
    buffer_ = std::move(*reserved);
  }
  const std::size_t part = std::min(length_ - filled_, data.size());
  // The reader may have put the bytes where they belong, or near: see room().
  std::byte* const at = place() + filled_;
  if (part && at != data.data()) std::memmove(at, data.data(), part);
  filled_ += part;
  data = data.subspan(part);
  if (filled_ < length_) return Outcome::kMore;
  memory.release(length_);
  prefix_filled_ = 0;
  message.coding = coding_;
  message.bytes = {place(), length_};
  message.owner = std::move(buffer_);
  return Outcome::kMessage;
}

void Inbox::clear(MessageMemory& memory) {
  if (buffer_) memory.release(length_);
  buffer_.reset();
  prefix_filled_ = 0;
  if (!failure_.ok()) failure_ = Status();
}

}  // namespace servolley::net
