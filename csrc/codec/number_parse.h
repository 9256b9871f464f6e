#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

namespace servolley::codec {

// The quick way from decimal text to numbers: 8 digits at a time, exact conversions only. Every
// function returns the end of the number, or nullptr when the careful way (JsonReader::scan_number
// and fast_float) must decide: unusual numbers and all malformed ones.

// Quick functions may read this far behind the start of a number.
inline constexpr std::ptrdiff_t kNumberReadAhead = 64;

namespace detail {

static_assert(std::endian::native == std::endian::little);

inline std::uint64_t load_eight(const char* at) {
  std::uint64_t chunk;
  std::memcpy(&chunk, at, sizeof chunk);
  return chunk;
}

// How many of the eight characters, from the first on, are digits. Carries only spoil flags above
// the first character that is none.
inline unsigned leading_digits(std::uint64_t chunk) {
  const std::uint64_t others =
      ((chunk + 0x4646464646464646) | (chunk - 0x3030303030303030)) & 0x8080808080808080;
  return others ? static_cast<unsigned>(std::countr_zero(others)) / 8 : 8;
}

// The number made of the first `count` characters, which are digits.
inline std::uint64_t digits_value(std::uint64_t chunk, unsigned count) {
  // Shifting in zero digits in front; in two steps, since a shift by 64 is undefined.
  std::uint64_t v = (chunk - 0x3030303030303030) << (32 - 4 * count) << (32 - 4 * count);
  v = v * 10 + (v >> 8);
  return ((v & 0x000000FF000000FF) * 0x000F424000000064 +
          ((v >> 16) & 0x000000FF000000FF) * 0x0000271000000001) >>
         32;
}

inline constexpr std::array<std::uint64_t, 9> kTens = {1,      10,      100,      1000,     10000,
                                                       100000, 1000000, 10000000, 100000000};
inline constexpr std::array<double, 23> kExactTens = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

struct Decimal {
  std::uint64_t mantissa = 0;  // below 2^63
  int exponent = 0;            // of ten
  bool negative = false;
};

inline bool is_digit(char c) { return static_cast<unsigned char>(c - '0') < 10; }

// Digits up to `chunks` * 8 of them. False if there may be more.
template <int kChunks>
inline bool read_digits(const char*& at, std::uint64_t& value) {
  for (int i = 0; i < kChunks; ++i) {
    const std::uint64_t chunk = load_eight(at);
    const unsigned count = leading_digits(chunk);
    value = value * kTens[count] + digits_value(chunk, count);
    at += count;
    if (count < 8) return true;
  }
  return false;
}

// A JSON number of at most 18 significant digits.
inline const char* read_decimal(const char* at, Decimal& out) {
  out.negative = *at == '-';
  at += out.negative;
  const char* const integer = at;
  if (at[1] == '.') {
    out.mantissa = static_cast<unsigned char>(*at - '0');
    if (out.mantissa > 9) return nullptr;
    ++at;
  } else {
    if (!read_digits<2>(at, out.mantissa)) return nullptr;
    if (at == integer || (*integer == '0' && at - integer > 1)) return nullptr;
  }
  auto significant = out.mantissa == 0 ? 0 : at - integer;
  if (*at == '.') {
    const char* const fraction = ++at;
    const bool leading_zero = significant == 0 && *fraction == '0';
    if (!read_digits<3>(at, out.mantissa)) return nullptr;
    const auto digits = at - fraction;
    if (digits == 0) return nullptr;
    significant += digits - leading_zero;
    if (significant > 18) return nullptr;
    out.exponent = -static_cast<int>(digits);
  }
  if ((*at | 0x20) == 'e') {
    ++at;
    const bool down = *at == '-';
    at += down || *at == '+';
    if (!is_digit(*at)) return nullptr;
    int exponent = *at++ - '0';
    if (is_digit(*at)) exponent = exponent * 10 + (*at++ - '0');
    if (is_digit(*at)) return nullptr;
    out.exponent += down ? -exponent : exponent;
  }
  return at;
}

// mantissa * 10^exponent in FP64, off by less than 2 units in the last place; exact rounding if the
// mantissa fits 53 bits. |exponent| must be at most 22.
inline double scaled(const Decimal& d) {
  const auto mantissa = static_cast<double>(static_cast<std::int64_t>(d.mantissa));
  return d.exponent < 0 ? mantissa / kExactTens[static_cast<std::size_t>(-d.exponent)]
                        : mantissa * kExactTens[static_cast<std::size_t>(d.exponent)];
}

inline bool small_exponent(int exponent) { return exponent >= -22 && exponent <= 22; }

}  // namespace detail

inline const char* parse_quick(const char* at, float& out) {
  detail::Decimal decimal;
  at = detail::read_decimal(at, decimal);
  if (!at || !detail::small_exponent(decimal.exponent)) return nullptr;
  const double value = detail::scaled(decimal);
  // Rounding the FP64 value again is right unless it lies where its own error could carry it across
  // the middle between two FP32 values: the lower 29 bits near 2^28.
  constexpr std::uint64_t kMiddle = std::uint64_t{1} << 28;
  constexpr std::uint64_t kLower = (kMiddle << 1) - 1;
  const auto bits = std::bit_cast<std::uint64_t>(value);
  if (((bits - kMiddle + 4) & kLower) <= 8) return nullptr;
  if (value > 3e38) return nullptr;
  const auto narrow = static_cast<float>(value);
  out = decimal.negative ? -narrow : narrow;
  return at;
}

inline const char* parse_quick(const char* at, double& out) {
  detail::Decimal decimal;
  at = detail::read_decimal(at, decimal);
  constexpr std::uint64_t kExact = std::uint64_t{1} << 53;
  if (!at || !detail::small_exponent(decimal.exponent) || decimal.mantissa > kExact) return nullptr;
  const double value = detail::scaled(decimal);
  out = decimal.negative ? -value : value;
  return at;
}

// Integers: range checked, no fraction and no exponent behind them.
template <class Integer>
inline const char* parse_quick_integer(const char* at, Integer& out) {
  const bool negative = *at == '-';
  at += negative;
  const char* const first = at;
  std::uint64_t value = 0;
  if (!detail::read_digits<2>(at, value)) return nullptr;
  if (at == first || (*first == '0' && at - first > 1)) return nullptr;
  if (*at == '.' || (*at | 0x20) == 'e') return nullptr;
  using Limits = std::numeric_limits<Integer>;
  if (negative) {
    if (value > 0 - static_cast<std::uint64_t>(static_cast<std::int64_t>(Limits::min()))) {
      return nullptr;
    }
    out = static_cast<Integer>(0 - value);
    return at;
  }
  if (value > static_cast<std::uint64_t>(Limits::max())) return nullptr;
  out = static_cast<Integer>(value);
  return at;
}

}  // namespace servolley::codec
