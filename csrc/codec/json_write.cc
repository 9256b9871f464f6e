#include "codec/json_write.h"

#include <array>

#include "codec/utf8.h"

namespace servolley::codec {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

bool needs_no_escape(unsigned char c) { return c >= 0x20 && c < 0x80 && c != '"' && c != '\\'; }

// The letter of a two-character escape, 0 if there is none.
char short_escape(unsigned char c) {
  switch (c) {
    case '"':
    case '\\':
      return static_cast<char>(c);
    case '\b':
      return 'b';
    case '\f':
      return 'f';
    case '\n':
      return 'n';
    case '\r':
      return 'r';
    case '\t':
      return 't';
    default:
      return 0;
  }
}

constexpr auto kDigitPairs = [] {
  std::array<char, 200> pairs{};
  for (std::size_t i = 0; i < 100; ++i) {
    pairs[2 * i] = static_cast<char>('0' + i / 10);
    pairs[2 * i + 1] = static_cast<char>('0' + i % 10);
  }
  return pairs;
}();

}  // namespace

std::size_t escaped_size(std::string_view text) {
  std::size_t size = 0;
  const char* at = text.data();
  const char* const end = at + text.size();
  while (at != end) {
    const auto c = static_cast<unsigned char>(*at);
    if (needs_no_escape(c)) {
      ++size;
      ++at;
    } else if (c >= 0x80) {
      const std::size_t length = utf8_sequence(at, end);
      size += length ? length : kReplacement.size();
      at += length ? length : 1;
    } else {
      size += short_escape(c) ? 2 : 6;
      ++at;
    }
  }
  return size;
}

char* put_escaped(char* at, std::string_view text, bool& valid) {
  const char* from = text.data();
  const char* const end = from + text.size();
  while (from != end) {
    const auto c = static_cast<unsigned char>(*from);
    if (needs_no_escape(c)) {
      *at++ = *from++;
    } else if (c >= 0x80) {
      const std::size_t length = utf8_sequence(from, end);
      if (length) {
        at = put_text(at, {from, length});
        from += length;
      } else {
        valid = false;
        at = put_text(at, kReplacement);
        ++from;
      }
    } else {
      *at++ = '\\';
      if (const char letter = short_escape(c)) {
        *at++ = letter;
      } else {
        constexpr std::string_view kHex = "0123456789abcdef";
        at = put_text(at, "u00");
        *at++ = kHex[c >> 4];
        *at++ = kHex[c & 15];
      }
      ++from;
    }
  }
  return at;
}

char* put_uint(char* at, std::uint64_t value) {
  if (value < 10) {
    *at = static_cast<char>('0' + value);
    return at + 1;
  }
  std::array<char, 20> digits;
  char* first = digits.data() + digits.size();
  while (value >= 100) {
    first -= 2;
    std::memcpy(first, &kDigitPairs[value % 100 * 2], 2);
    value /= 100;
  }
  if (value >= 10) {
    first -= 2;
    std::memcpy(first, &kDigitPairs[value * 2], 2);
  } else {
    *--first = static_cast<char>('0' + value);
  }
  return put_text(at, {first, static_cast<std::size_t>(digits.data() + digits.size() - first)});
}

}  // namespace servolley::codec
