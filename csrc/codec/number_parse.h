#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

namespace servolley::codec {

// digits / 10^scale, correctly rounded. `digits` is not 0, `scale` is 27 at most.
double nearest_double(std::uint64_t digits, std::size_t scale);

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

// Whether all eight characters are digits.
inline bool eight_digits(std::uint64_t chunk) {
  return (((chunk + 0x4646464646464646) | (chunk - 0x3030303030303030)) & 0x8080808080808080) == 0;
}

inline std::uint64_t eight_digits_value(std::uint64_t chunk) {
  chunk -= 0x3030303030303030;
  chunk = chunk * 10 + (chunk >> 8);
  return ((chunk & 0x000000FF000000FF) * 0x000F424000000064 +
          ((chunk >> 16) & 0x000000FF000000FF) * 0x0000271000000001) >>
         32;
}

inline constexpr std::array<double, 23> kExactTens = {
    1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,  1e8,  1e9,  1e10, 1e11,
    1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22};

struct Decimal {
  std::uint64_t mantissa = 0;  // below 2^63
  int exponent = 0;            // of ten
  bool negative = false;
};

inline unsigned digit(char c) { return static_cast<unsigned char>(c - '0'); }

// Digits one by one, `most` of them. The branches are guessed right as long as the numbers have the
// same number of digits.
[[gnu::always_inline]] inline void read_digits(const char*& at, std::uint64_t& value, int most) {
  const char* const stop = at + most;
  for (unsigned d = digit(*at); d <= 9 && at != stop; d = digit(*at)) {
    value = value * 10 + d;
    ++at;
  }
}

// An integer's digits, 19 of them at most, and its sign; `at` goes behind them. Integers vary in
// length (pixels have one to three digits), so short ones take no branch on it, and where they end
// depends on one load only: that is the way to the next number. False unless a digit comes first.
[[gnu::always_inline]] inline bool read_integer(const char*& at, std::uint64_t& value) {
  constexpr std::uint64_t kHighs = 0x8080808080808080;
  const std::uint64_t raw = load_eight(at);
  const unsigned sign_bits = (raw & 0xFF) == '-' ? 8 : 0;
  // Flags what is no digit, without carries from byte to byte, the first character aside.
  const std::uint64_t others =
      (raw | ((raw & ~kHighs) + 0x4646464646464646) | ~((raw | kHighs) - 0x3030303030303030)) &
      kHighs & ~std::uint64_t{0xFF};
  if (others == 0) [[unlikely]] {
    at += sign_bits / 8;
    const char* const first = at;
    read_digits(at, value, 19);
    return at != first;
  }
  const auto bits = static_cast<unsigned>(std::countr_zero(others)) & ~7u;
  at += bits / 8;
  const std::uint64_t digits = (raw >> sign_bits) ^ 0x3030303030303030;
  // Zeros come in as leading digits; in two steps, since a shift by 64 is undefined.
  value = eight_digits_value((digits << (56 - bits + sign_bits) << 8) ^ 0x3030303030303030);
  return (digits & 0xFF) <= 9 && bits > sign_bits;
}

// A JSON number of at most 18 significant digits.
[[gnu::always_inline]] inline const char* read_decimal(const char* at, Decimal& out) {
  out.negative = *at == '-';
  const char* const integer = at + out.negative;
  if (integer[1] == '.') {
    out.mantissa = digit(*integer);
    if (out.mantissa > 9) return nullptr;
    at = integer + 1;
  } else if (!read_integer(at, out.mantissa)) {
    return nullptr;
  }
  auto significant = at - integer;
  // Most integers end here.
  if (*at == ',' && significant <= 8 && (*integer != '0' || significant == 1)) return at;
  if (*integer == '0' && significant > 1) return nullptr;
  if (*at == '.') {
    const char* const fraction = ++at;
    if (std::uint64_t chunk = load_eight(at); eight_digits(chunk)) {
      out.mantissa = out.mantissa * 100'000'000 + eight_digits_value(chunk);
      at += 8;
      if (chunk = load_eight(at); eight_digits(chunk)) {
        out.mantissa = out.mantissa * 100'000'000 + eight_digits_value(chunk);
        at += 8;
      }
    }
    read_digits(at, out.mantissa, 8);
    const auto digits = at - fraction;
    if (digits == 0) return nullptr;
    // Zeros in front do not count.
    significant += digits;
    if (*integer == '0') significant -= *fraction == '0' ? 2 : 1;
    out.exponent = -static_cast<int>(digits);
  }
  if (significant > 18 || digit(*at) <= 9) return nullptr;
  if ((*at | 0x20) == 'e') {
    ++at;
    const bool down = *at == '-';
    at += down || *at == '+';
    const char* const power = at;
    std::uint64_t exponent = 0;
    read_digits(at, exponent, 3);
    if (at == power || exponent > 99) return nullptr;
    out.exponent += down ? -static_cast<int>(exponent) : static_cast<int>(exponent);
  }
  return at;
}

// mantissa * 10^exponent in FP64, off by less than 2 units in the last place; exact rounding if the
// mantissa fits 53 bits. |exponent| must be at most 22.
inline double scaled(const Decimal& d) {
  const auto mantissa = static_cast<double>(static_cast<std::int64_t>(d.mantissa));
  if (d.exponent == 0) return mantissa;
  return d.exponent < 0 ? mantissa / kExactTens[static_cast<std::size_t>(-d.exponent)]
                        : mantissa * kExactTens[static_cast<std::size_t>(d.exponent)];
}

// Whether an FP64 value that is off by less than 2 units in the last place lies where that could
// carry it across the middle between two FP32 values: the lower 29 bits near 2^28.
inline bool near_middle(double value) {
  constexpr std::uint64_t kMiddle = std::uint64_t{1} << 28;
  constexpr std::uint64_t kLower = (kMiddle << 1) - 1;
  return ((std::bit_cast<std::uint64_t>(value) - kMiddle + 4) & kLower) <= 8;
}

inline constexpr std::uint64_t kExactInDouble = std::uint64_t{1} << 53;

inline double with_sign(double value, bool negative) {
  return std::bit_cast<double>(std::bit_cast<std::uint64_t>(value) | std::uint64_t{negative} << 63);
}

// Whether `magnitude` with its sign fits; if so, that is `out`.
template <class Integer>
[[gnu::always_inline]] inline bool fit(std::uint64_t magnitude, bool negative, Integer& out) {
  using Limits = std::numeric_limits<Integer>;
  constexpr std::uint64_t kLeast =
      0 - static_cast<std::uint64_t>(static_cast<std::int64_t>(Limits::min()));
  constexpr auto kMost = static_cast<std::uint64_t>(Limits::max());
  if (magnitude > (negative ? kLeast : kMost)) return false;
  out = static_cast<Integer>(negative ? 0 - magnitude : magnitude);
  return true;
}

inline bool small_exponent(int exponent) { return exponent >= -22 && exponent <= 22; }

}  // namespace detail

[[gnu::always_inline]] inline const char* parse_quick(const char* at, float& out) {
  detail::Decimal decimal;
  at = detail::read_decimal(at, decimal);
  // Integers that FP32 holds exactly.
  if (constexpr std::uint64_t kExact = std::uint64_t{1} << 24;
      at && decimal.exponent == 0 && decimal.mantissa <= kExact) {
    const auto value = static_cast<float>(static_cast<std::int32_t>(decimal.mantissa));
    out = std::bit_cast<float>(std::bit_cast<std::uint32_t>(value) | std::uint32_t{decimal.negative}
                                                                         << 31);
    return at;
  }
  if (!at || !detail::small_exponent(decimal.exponent)) return nullptr;
  const double value = detail::scaled(decimal);
  if (detail::near_middle(value) || value > 3e38) return nullptr;
  // No branch on the sign: that is a coin toss.
  out = static_cast<float>(detail::with_sign(value, decimal.negative));
  return at;
}

[[gnu::always_inline]] inline const char* parse_quick(const char* at, double& out) {
  detail::Decimal decimal;
  at = detail::read_decimal(at, decimal);
  if (!at || !detail::small_exponent(decimal.exponent) ||
      decimal.mantissa > detail::kExactInDouble) {
    return nullptr;
  }
  out = detail::with_sign(detail::scaled(decimal), decimal.negative);
  return at;
}

// Integers: range checked, no fraction and no exponent behind them.
template <class Integer>
[[gnu::always_inline]] inline const char* parse_quick_integer(const char* at, Integer& out) {
  const bool negative = *at == '-';
  const char* const first = at + negative;
  std::uint64_t value = 0;
  if (!detail::read_integer(at, value)) return nullptr;
  if (at - first > 18 || (*first == '0' && at - first > 1)) return nullptr;
  if (*at == '.' || (*at | 0x20) == 'e') return nullptr;
  return detail::fit(value, negative, out) ? at : nullptr;
}

}  // namespace servolley::codec
