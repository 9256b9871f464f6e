#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <protozero/types.hpp>
#include <protozero/varint.hpp>
#include <string_view>
#include <utility>

#include "base/status.h"
#include "memory/payload.h"
#include "memory/pool.h"

// Writing protobuf messages whose size is computed first.
namespace servolley::codec::proto {

// Tensors above this are sent from where they lie; smaller ones are cheaper to copy than to list.
inline constexpr std::size_t kViewBytes = 4096;

constexpr std::size_t varint_size(std::uint64_t value) {
  return (static_cast<std::size_t>(std::bit_width(value | 1)) * 9 + 64) / 64;
}
constexpr std::size_t key_size(std::uint32_t number) { return number < 16 ? 1 : 2; }
// A string, bytes, packed values or a message of `bytes`, with what leads it in.
constexpr std::size_t field_size(std::uint32_t number, std::size_t bytes) {
  return key_size(number) + varint_size(bytes) + bytes;
}
// The same for a string, which is left out if it is empty.
constexpr std::size_t text_size(std::uint32_t number, std::string_view text) {
  return text.empty() ? 0 : field_size(number, text.size());
}
constexpr std::size_t varint_field_size(std::uint32_t number, std::uint64_t value) {
  return key_size(number) + varint_size(value);
}

// Fills one pooled buffer of a known size and cuts views into what it adds to a payload.
class MessageWriter {
 public:
  explicit MessageWriter(Payload& payload) : payload_(payload) {}

  // `bytes`: what is going to be written, views not counted.
  Status begin(Pool& pool, std::size_t bytes) {
    auto memory = pool.allocate(bytes);
    if (!memory) return std::move(memory).error();
    buffer_ = std::move(*memory);
    piece_ = at_ = reinterpret_cast<char*>(buffer_.data());
    return {};
  }

  void varint(std::uint64_t value) { at_ += protozero::add_varint_to_buffer(at_, value); }
  void varint_field(std::uint32_t number, std::uint64_t value) {
    varint(protozero::tag_and_type(number, protozero::pbf_wire_type::varint));
    varint(value);
  }
  // Leads in `bytes` that follow.
  void field(std::uint32_t number, std::size_t bytes) {
    varint(protozero::tag_and_type(number, protozero::pbf_wire_type::length_delimited));
    varint(bytes);
  }
  void text(std::uint32_t number, std::string_view text) {
    if (text.empty()) return;
    field(number, text.size());
    raw(text.data(), text.size());
  }
  void raw(const void* data, std::size_t bytes) {
    if (bytes == 0) return;
    std::memcpy(at_, data, bytes);
    at_ += bytes;
  }
  // Bytes to be filled in by the caller.
  char* take(std::size_t bytes) { return std::exchange(at_, at_ + bytes); }
  // Sends `data` from where it lies; the view must not be counted in begin().
  void view(Buffer owner, const std::byte* data, std::size_t bytes) {
    const char* const piece = std::exchange(piece_, at_);
    payload_.add(buffer_.share(), reinterpret_cast<const std::byte*>(piece),
                 static_cast<std::size_t>(at_ - piece));
    payload_.add(std::move(owner), data, bytes);
  }
  void finish() {
    payload_.add(std::move(buffer_), reinterpret_cast<const std::byte*>(piece_),
                 static_cast<std::size_t>(at_ - piece_));
  }

 private:
  Payload& payload_;
  Buffer buffer_;
  char* at_ = nullptr;
  const char* piece_ = nullptr;  // begins here what no segment has yet
};

}  // namespace servolley::codec::proto
