#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace servolley::codec {

// Bytes of the UTF-8 sequence at `at` (1 to 4); 0 if it is malformed, overlong, a surrogate, above
// U+10FFFF or cut off by `end`.
inline std::size_t utf8_sequence(const char* at, const char* end) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(at[i]); };
  const auto left = static_cast<std::size_t>(end - at);
  const auto follows = [&](std::size_t i) { return (byte(i) & 0xC0u) == 0x80u; };
  if (left == 0) return 0;
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  if (first < 0xC2) return 0;
  if (first < 0xE0) return left >= 2 && follows(1) ? 2 : 0;
  if (first < 0xF0) {
    if (left < 3 || !follows(1) || !follows(2)) return 0;
    if (first == 0xE0 && byte(1) < 0xA0) return 0;
    return first == 0xED && byte(1) > 0x9F ? 0 : 3;
  }
  if (first > 0xF4 || left < 4 || !follows(1) || !follows(2) || !follows(3)) return 0;
  if (first == 0xF0 && byte(1) < 0x90) return 0;
  return first == 0xF4 && byte(1) > 0x8F ? 0 : 4;
}

inline bool is_utf8(std::string_view text) {
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    std::uint64_t eight = 0;
    if (end - at >= 8) {  // names are ASCII nearly always
      std::memcpy(&eight, at, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        at += 8;
        continue;
      }
    }
    const std::size_t bytes = utf8_sequence(at, end);
    if (bytes == 0) return false;
    at += bytes;
  }
  return true;
}

// Puts '?' in place of every byte that is not part of a valid sequence.
inline void replace_bad_utf8(char* text, std::size_t bytes) {
  char* const end = text + bytes;
  while (text != end) {
    const std::size_t sequence = utf8_sequence(text, end);
    if (sequence == 0) *text = '?';
    text += sequence ? sequence : 1;
  }
}

// Writes the code point (valid, no surrogate) at `at`; returns behind it. Needs room for 4 bytes.
inline char* put_utf8(char* at, unsigned code_point) {
  const auto put = [&](unsigned byte) { *at++ = static_cast<char>(byte); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | code_point >> 6);
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | code_point >> 12);
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | code_point >> 18);
    put(0x80 | (code_point >> 12 & 0x3F));
    put(0x80 | (code_point >> 6 & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
  return at;
}

}  // namespace servolley::codec
