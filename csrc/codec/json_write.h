#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace servolley::codec {

// Writers of JSON pieces into memory that the caller has reserved: each takes where to write and
// returns where it stopped.

inline char* put_text(char* at, std::string_view text) {
  std::memcpy(at, text.data(), text.size());
  return at + text.size();
}

// Bytes of `text` inside a JSON string, without the quotes.
std::size_t escaped_size(std::string_view text);
// Writes `text` escaped, without quotes; needs escaped_size(text) bytes. A byte that is not part of
// valid UTF-8 becomes U+FFFD and clears `valid`.
char* put_escaped(char* at, std::string_view text, bool& valid);
// The same with quotes around it, for names.
inline char* put_quoted(char* at, std::string_view text) {
  bool valid = true;
  // NOLINTNEXTLINE(clang-analyzer-core.NullDereference): callers have made room
  *at++ = '"';
  at = put_escaped(at, text, valid);
  *at++ = '"';
  return at;
}

// Decimal digits; needs 20 bytes.
char* put_uint(char* at, std::uint64_t value);
inline char* put_int(char* at, std::int64_t value) {
  const auto magnitude = static_cast<std::uint64_t>(value);
  if (value >= 0) return put_uint(at, magnitude);
  *at++ = '-';  // NOLINT(clang-analyzer-core.NullDereference): callers have made room
  return put_uint(at, 0 - magnitude);
}

}  // namespace servolley::codec
