#include "codec/json_string.h"

#include <bit>
#include <cstdint>
#include <cstring>

#include "codec/utf8.h"

namespace servolley::codec {
namespace {

constexpr std::uint64_t kOnes = 0x0101010101010101;
constexpr std::uint64_t kHighs = 0x8080808080808080;

constexpr std::uint64_t zero_bytes(std::uint64_t v) { return (v - kOnes) & ~v & kHighs; }

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// Four hexadecimal digits, or -1.
int hex4(const char* at, const char* end) {
  if (end - at < 4) return -1;
  int value = 0;
  for (int i = 0; i < 4; ++i) {
    const int digit = hex_digit(at[i]);
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

bool is_high_surrogate(int unit) { return unit >= 0xD800 && unit < 0xDC00; }
bool is_low_surrogate(int unit) { return unit >= 0xDC00 && unit < 0xE000; }

}  // namespace

const char* skip_plain(const char* at, const char* end) {
  // The lowest flagged byte is exact, which is all that is used.
  static_assert(std::endian::native == std::endian::little);
  while (end - at >= 8) {
    std::uint64_t v;
    std::memcpy(&v, at, 8);
    const std::uint64_t special = zero_bytes(v ^ kOnes * '"') | zero_bytes(v ^ kOnes * '\\') |
                                  ((v - kOnes * 0x20) & ~v & kHighs) | (v & kHighs);
    if (special) return at + std::countr_zero(special) / 8;
    at += 8;
  }
  while (at != end && static_cast<unsigned char>(*at) >= 0x20 &&
         static_cast<unsigned char>(*at) < 0x80 && *at != '"' && *at != '\\') {
    ++at;
  }
  return at;
}

std::size_t escape_length(const char* at, const char* end) {
  if (end - at < 2) return 0;
  switch (at[1]) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
      return 2;
    case 'u': {
      const int unit = hex4(at + 2, end);
      if (unit < 0 || is_low_surrogate(unit)) return 0;
      if (!is_high_surrogate(unit)) return 6;
      if (end - at < 12 || at[6] != '\\' || at[7] != 'u') return 0;
      return is_low_surrogate(hex4(at + 8, end)) ? 12 : 0;
    }
    default:
      return 0;
  }
}

std::size_t unescape(std::string_view raw, char* out) {
  const char* at = raw.data();
  const char* const end = at + raw.size();
  char* const begin = out;
  while (at != end) {
    const auto* slash =
        static_cast<const char*>(std::memchr(at, '\\', static_cast<std::size_t>(end - at)));
    const auto plain = static_cast<std::size_t>((slash ? slash : end) - at);
    std::memmove(out, at, plain);
    out += plain;
    at += plain;
    if (!slash) break;
    const char kind = at[1];
    at += 2;
    switch (kind) {
      case 'b':
        *out++ = '\b';
        break;
      case 'f':
        *out++ = '\f';
        break;
      case 'n':
        *out++ = '\n';
        break;
      case 'r':
        *out++ = '\r';
        break;
      case 't':
        *out++ = '\t';
        break;
      case 'u': {
        int code_point = hex4(at, end);
        at += 4;
        if (is_high_surrogate(code_point)) {
          code_point = 0x10000 + ((code_point - 0xD800) << 10) + (hex4(at + 2, end) - 0xDC00);
          at += 6;
        }
        out = put_utf8(out, static_cast<unsigned>(code_point));
        break;
      }
      default:
        *out++ = kind;
    }
  }
  return static_cast<std::size_t>(out - begin);
}

}  // namespace servolley::codec
