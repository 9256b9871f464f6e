#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "codec/number_format.h"

namespace servolley::codec {

// A decimal of up to 6 significant digits that reads back as an FP32 value is the only one that
// does, and so the shortest, trailing zeros aside.
char* put_few_decimals(char* at, float value) {
  const double magnitude = std::fabs(static_cast<double>(value));
  if (!(magnitude < 99.99995)) return nullptr;
  // NOLINTNEXTLINE(bugprone-incorrect-roundings): a tie is no value of four decimals either way
  const auto units = static_cast<std::int64_t>(magnitude * 1e4 + 0.5);
  if (units == 0) return nullptr;
  // The two roundings of this product cannot carry it across the middle between two FP32 values: a
  // number of units that is not such a middle is further from it than 2^-40 of itself.
  if (static_cast<double>(static_cast<float>(static_cast<double>(units) * 1e-4)) != magnitude) {
    return nullptr;
  }
  *at = '-';
  at += std::signbit(value);
  const auto integer = static_cast<std::uint32_t>(units) / 10'000;
  const auto fraction = static_cast<std::uint32_t>(units) % 10'000;
  const std::uint32_t ten = integer / 10;
  const auto has_ten = static_cast<unsigned>(ten != 0);
  // Digits as bytes, the first lowest: one or two and the point, then four without zeros at the
  // end.
  const std::uint32_t front = ten | (integer - ten * 10) << 8 | 0x2E3030;
  const std::uint32_t text = front >> 8 * (1 - has_ten);
  std::memcpy(at, &text, sizeof text);
  at += 2 + has_ten;
  const std::uint32_t twos = fraction / 100 | (fraction % 100) << 16;
  const std::uint32_t tens = (twos * 103 >> 10) & 0x000F000F;
  const std::uint32_t digits = tens | (twos - tens * 10) << 8;
  const std::uint32_t ascii = digits | 0x30303030;
  std::memcpy(at, &ascii, sizeof ascii);
  return at + (4 - std::countr_zero(__builtin_bswap32(digits | 1)) / 8);
}

}  // namespace servolley::codec
