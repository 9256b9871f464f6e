#pragma once

#include <cstddef>
#include <cstdint>
#include <protozero/pbf_reader.hpp>
#include <span>
#include <string_view>

#include "base/status.h"
#include "codec/messages.h"
#include "codec/utf8.h"

// Reading protobuf messages with protozero. A field whose number or wire type is not the schema's
// is skipped; a field that is given again replaces the one before (or, if it is a message, adds to
// it). Groups, which no message of ours ever had, are refused where they begin.
namespace servolley::codec::proto {

using Reader = protozero::pbf_reader;
using Wire = protozero::pbf_wire_type;

// Number and wire type of a field in one value, for switches.
constexpr std::uint32_t varint_field(std::uint32_t number) {
  return protozero::tag_and_type(number, Wire::varint);
}
constexpr std::uint32_t bytes_field(std::uint32_t number) {
  return protozero::tag_and_type(number, Wire::length_delimited);
}
constexpr std::uint32_t fixed64_field(std::uint32_t number) {
  return protozero::tag_and_type(number, Wire::fixed64);
}

inline Reader reader_of(std::span<const std::byte> message) {
  return {reinterpret_cast<const char*>(message.data()), message.size()};
}

inline std::string_view take_bytes(Reader& reader) {
  const protozero::data_view view = reader.get_view();
  return {view.data(), view.size()};
}
inline std::span<const std::byte> take_span(Reader& reader) {
  return std::as_bytes(std::span<const char>(take_bytes(reader)));
}
// The reader's own get_bool() takes varints of one byte only.
inline bool take_bool(Reader& reader) { return reader.get_uint64() != 0; }

// Takes a string; `field` names it in the message.
inline Status take_text(Reader& reader, std::string_view field, std::string_view& out) {
  out = take_bytes(reader);
  if (is_utf8(out)) return {};
  return invalid_argument(message("'", field, "' is not valid UTF-8"));
}

// Calls `read`, in which protozero may throw.
template <class Read>
Status well_formed(Read read) {
  try {
    return read();
  } catch (const protozero::exception&) {
    return invalid_argument("the request is not a well-formed protobuf message");
  }
}

}  // namespace servolley::codec::proto
