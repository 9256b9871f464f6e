#include "codec/number_format.h"

#include <algorithm>
#include <array>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <limits>
#include <type_traits>

#include "codec/powers_of_ten.h"

// How it works: value * 10^k is computed so that its integer part has 9 (17) digits, as a
// fixed-point number of 64 (128) bits whose error is below kSlack of its units. Rounding it to
// fewer digits and asking whether a decimal lies inside the value's rounding interval are then
// integer comparisons. Whenever the error could change an answer (and for subnormals),
// std::to_chars decides exactly.

namespace servolley::codec {
namespace {

constexpr unsigned kSlack = 3;

template <class Float>
struct Traits;

template <>
struct Traits<float> {
  using Bits = std::uint32_t;
  using Fixed = std::uint64_t;
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 150;
  static constexpr int kDigits = 9;
  static constexpr std::uint64_t kFirst = 100'000'000;  // smallest number of kDigits digits
};

template <>
struct Traits<double> {
  using Bits = std::uint64_t;
  using Fixed = Uint128;
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1075;
  static constexpr int kDigits = 17;
  static constexpr std::uint64_t kFirst = 10'000'000'000'000'000;
};

// digits / 10^(kDigits - 1) * 10^exponent; `digits` has exactly kDigits digits.
struct Decimal {
  std::uint64_t digits = 0;
  int exponent = 0;
  int precision = 0;  // %g's, which decides between fixed and scientific notation
};

// value * 10^k = units / 2^shift, with the distance to the upper neighbour's midpoint in the same
// units.
template <class Float>
struct Scaled {
  typename Traits<Float>::Fixed units;
  typename Traits<Float>::Fixed half_gap;
  int shift;
};

Scaled<float> scale(std::uint32_t mantissa, int exponent, int k) {
  const std::uint64_t power = power_of_ten(k).high;
  const Uint128 product = Uint128{std::uint64_t{mantissa} << 40} * power;
  return {static_cast<std::uint64_t>(product >> 64), power >> 25,
          39 - exponent - floor_log2_of_power_of_ten(k)};
}

Scaled<double> scale(std::uint64_t mantissa, int exponent, int k) {
  const PowerOfTen& power = power_of_ten(k);
  const std::uint64_t wide = mantissa << 11;
  const Uint128 product = Uint128{wide} * power.high + (Uint128{wide} * power.low >> 64);
  return {product, (Uint128{power.high} << 64 | power.low) >> 54,
          74 - exponent - floor_log2_of_power_of_ten(k)};
}

// The decimal exponent of the first digit, by binary exponent: `low` for mantissas below
// `threshold`, else low + 1.
struct FloatExponent {
  std::uint32_t threshold;
  int low;
};

constexpr auto kFloatExponents = [] {
  std::array<FloatExponent, 256> table{};
  for (int biased = 1; biased < 255; ++biased) {
    const int exponent = biased - Traits<float>::kBias;
    const int low = floor_log10_of_power_of_two(exponent + 23);
    std::uint32_t threshold = 1u << 24;
    if (floor_log2_of_power_of_ten(low + 1) == exponent + 23) {
      const PowerOfTen& next = power_of_ten(low + 1);
      const bool exact = next.low == 0 && next.high << 24 == 0;
      threshold = static_cast<std::uint32_t>(next.high >> 40) + (exact ? 0 : 1);
    }
    table[static_cast<std::size_t>(biased)] = {threshold, low};
  }
  return table;
}();

enum class Verdict : std::uint8_t { kInside, kOutside, kUnclear };

template <class Float>
class Shortener {
 public:
  using T = Traits<Float>;
  using Fixed = typename T::Fixed;

  // False when only exact arithmetic can tell.
  static bool run(Float value, FloatRule rule, Decimal& out) {
    const auto bits = std::bit_cast<typename T::Bits>(value);
    const auto biased = static_cast<int>(bits >> T::kMantissaBits &
                                         ((1u << (sizeof(Float) * 8 - 1 - T::kMantissaBits)) - 1));
    if (biased <= 1) return false;
    const auto hidden = typename T::Bits{1} << T::kMantissaBits;
    const auto mantissa = static_cast<typename T::Bits>((bits & (hidden - 1)) | hidden);
    const int exponent = biased - T::kBias;
    Shortener s;
    s.power_of_two_ = static_cast<std::uint64_t>(mantissa == hidden);
    int first = 0;
    if constexpr (std::is_same_v<Float, float>) {
      const FloatExponent& row = kFloatExponents[static_cast<std::size_t>(biased)];
      first = row.low + (mantissa >= row.threshold);
    } else {
      first = floor_log10_of_power_of_two(exponent + T::kMantissaBits);
      if (!s.set(scale(mantissa, exponent, T::kDigits - 1 - first))) ++first;
    }
    if (!s.set(scale(mantissa, exponent, T::kDigits - 1 - first))) return false;
    out.exponent = first;
    if (!s.choose(rule, out)) return false;
    if (out.digits >= T::kFirst * 10) {  // rounded up to a power of ten
      out.digits /= 10;
      ++out.exponent;
    }
    return true;
  }

 private:
  bool set(const Scaled<Float>& scaled) {
    scaled_ = scaled;
    integer_ = static_cast<std::uint64_t>(scaled.units >> scaled.shift);
    fraction_ = scaled.units & ((Fixed{1} << scaled.shift) - 1);
    return integer_ >= T::kFirst && integer_ < T::kFirst * 10;
  }

  bool choose(FloatRule rule, Decimal& out) const {
    out.precision = T::kDigits;
    if (rule == FloatRule::kTensorFlow) {
      constexpr std::uint64_t kSixDigits = T::kFirst / 100'000;
      if (const Verdict six = nearest<kSixDigits>(out.digits); six != Verdict::kOutside) {
        out.precision = 6;
        return six == Verdict::kInside;
      }
      return rounded(out.digits);
    }
    // Coarse steps have at most one multiple inside the interval, so trailing zeros of a hit are
    // the shortest form too.
    constexpr std::uint64_t kCoarse = sizeof(Float) == 4 ? 1000 : 100;
    if (const Verdict hit = nearest<kCoarse>(out.digits); hit != Verdict::kOutside) {
      return hit == Verdict::kInside;
    }
    // Below a power of two the interval is lopsided: the nearest multiple may be outside while
    // another one is inside.
    if (power_of_two_ != 0) return false;
    if constexpr (kCoarse == 1000) {
      if (const Verdict hit = nearest<100>(out.digits); hit != Verdict::kOutside) {
        return hit == Verdict::kInside;
      }
    }
    if (const Verdict hit = nearest<10>(out.digits); hit != Verdict::kOutside) {
      return hit == Verdict::kInside;
    }
    return rounded(out.digits);
  }

  // The multiple of `kStep` nearest to the value, and whether it reads back as the value.
  template <std::uint64_t kStep>
  Verdict nearest(std::uint64_t& digits) const {
    const std::uint64_t quotient = integer_ / kStep;
    const Fixed rest = (Fixed{integer_ - quotient * kStep} << scaled_.shift) | fraction_;
    const Fixed step = Fixed{kStep} << scaled_.shift;
    // No branch on how it rounds: that is a coin toss.
    const Fixed off_middle = rest - step / 2;
    const auto up = static_cast<std::uint64_t>(rest > step / 2);
    const Fixed distance = std::min(rest, static_cast<Fixed>(step - rest));
    const Fixed bound = scaled_.half_gap >> (power_of_two_ & (up ^ 1));
    digits = (quotient + up) * kStep;
    if (distance > bound + kSlack) return Verdict::kOutside;
    if (distance + kSlack >= bound || near_zero(off_middle)) return Verdict::kUnclear;
    return Verdict::kInside;
  }

  // The value rounded to kDigits digits. False at (or too near) a tie.
  bool rounded(std::uint64_t& digits) const {
    const Fixed half = Fixed{1} << (scaled_.shift - 1);
    digits = integer_ + static_cast<std::uint64_t>(fraction_ > half);
    return !near_zero(fraction_ - half);
  }

  // Of a difference that may have wrapped below zero.
  static bool near_zero(Fixed difference) {
    return static_cast<Fixed>(difference + kSlack) <= 2 * kSlack;
  }

  Scaled<Float> scaled_{};
  std::uint64_t integer_ = 0;
  Fixed fraction_ = 0;
  std::uint64_t power_of_two_ = 0;
};

// Reads "d.ddde+XX" as std::to_chars writes it.
Decimal read_scientific(const char* at, const char* end, int digits, int precision) {
  Decimal out;
  out.precision = precision;
  int seen = 0;
  for (; at != end && *at != 'e'; ++at) {
    if (*at < '0' || *at > '9') continue;
    out.digits = out.digits * 10 + static_cast<std::uint64_t>(*at - '0');
    ++seen;
  }
  for (; seen < digits; ++seen) out.digits *= 10;
  if (at != end) {
    ++at;
    if (at != end && *at == '+') ++at;
    std::from_chars(at, end, out.exponent);
  }
  return out;
}

template <class Float>
Decimal exact(Float magnitude, FloatRule rule) {
  constexpr int kDigits = Traits<Float>::kDigits;
  std::array<char, 64> text;
  char* const end = text.data() + text.size();
  if (rule == FloatRule::kShortest) {
    const auto done = std::to_chars(text.data(), end, magnitude, std::chars_format::scientific);
    return read_scientific(text.data(), done.ptr, kDigits, kDigits);
  }
  auto done = std::to_chars(text.data(), end, magnitude, std::chars_format::scientific, 5);
  Float back = 0;
  const auto read = std::from_chars(text.data(), done.ptr, back);
  // Out of range is how 6 digits of the largest values read back.
  if (read.ec == std::errc() && back == magnitude) {
    return read_scientific(text.data(), done.ptr, kDigits, 6);
  }
  done = std::to_chars(text.data(), end, magnitude, std::chars_format::scientific, kDigits - 1);
  return read_scientific(text.data(), done.ptr, kDigits, kDigits);
}

// Eight decimal digits as bytes 0..9, first digit lowest.
std::uint64_t spread_eight_digits(std::uint64_t value) {
  const std::uint64_t fours = value / 10'000 | (value % 10'000) << 32;
  const std::uint64_t hundreds = (fours * 10486 >> 20) & 0x0000007F0000007F;
  const std::uint64_t twos = hundreds | (fours - hundreds * 100) << 16;
  const std::uint64_t tens = (twos * 103 >> 10) & 0x000F000F000F000F;
  return tens | (twos - tens * 10) << 8;
}

constexpr std::uint64_t kAsciiZeros = 0x3030303030303030;

// 0 to 8. Counted from the other end, since the other instruction is slow on older processors.
int zero_bytes_at_top(std::uint64_t value) {
  return std::countr_zero(__builtin_bswap64(value)) / 8;
}

// The digits behind the first as bytes 0..9, kept in registers: writing text and reading it back at
// another offset would stall on the store buffer.
template <int kDigits>
struct Tail;

template <>
struct Tail<9> {
  explicit Tail(std::uint64_t digits) : spread(spread_eight_digits(digits)) {}
  // Writes the digits from `skip` (0 to 8) on, and zeros behind them: 8 bytes.
  void put(char* at, int skip) const {
    const std::uint64_t text = (spread >> 4 * skip >> 4 * skip) + kAsciiZeros;
    std::memcpy(at, &text, sizeof text);
  }
  // Digits without trailing zeros.
  int count() const { return 8 - zero_bytes_at_top(spread); }
  std::uint64_t spread;
};

template <>
struct Tail<17> {
  explicit Tail(std::uint64_t digits)
      : high(spread_eight_digits(digits / 100'000'000)),
        low(spread_eight_digits(digits % 100'000'000)) {}
  void put(char* at, int skip) const {
    const Uint128 shifted = (Uint128{low} << 64 | high) >> 4 * skip >> 4 * skip;
    const std::uint64_t first = static_cast<std::uint64_t>(shifted) + kAsciiZeros;
    const std::uint64_t second = static_cast<std::uint64_t>(shifted >> 64) + kAsciiZeros;
    std::memcpy(at, &first, sizeof first);
    std::memcpy(at + 8, &second, sizeof second);
  }
  int count() const { return low ? 16 - zero_bytes_at_top(low) : 8 - zero_bytes_at_top(high); }
  std::uint64_t high;
  std::uint64_t low;
};

char* put_exponent(char* at, int exponent) {
  *at++ = 'e';
  *at++ = exponent < 0 ? '-' : '+';
  auto power = static_cast<unsigned>(exponent < 0 ? -exponent : exponent);
  if (power >= 100) {
    *at++ = static_cast<char>('0' + power / 100);
    power %= 100;
  }
  *at++ = static_cast<char>('0' + power / 10);
  *at++ = static_cast<char>('0' + power % 10);
  return at;
}

template <int kDigits>
char* layout(char* at, const Decimal& decimal) {
  constexpr std::uint64_t kTailUnit = kDigits == 9 ? 100'000'000 : 10'000'000'000'000'000;
  const auto first = static_cast<char>('0' + decimal.digits / kTailUnit);
  const Tail<kDigits> tail(decimal.digits % kTailUnit);
  const int count = tail.count();
  const int x = decimal.exponent;
  if (x < 0 && x >= -4) {
    std::memcpy(at, "0.000000", 8);
    at[1 - x] = first;
    tail.put(at + 2 - x, 0);
    return at + 2 - x + count;
  }
  at[0] = first;
  if (x >= 0 && x < decimal.precision) {
    tail.put(at + 1, 0);
    at[x + 1] = '.';
    tail.put(at + x + 2, x);
    return at + (count > x ? count + 2 : x + 3);
  }
  at[1] = '.';
  tail.put(at + 2, 0);
  return put_exponent(at + (count ? count + 2 : 1), x);
}

// Writes the sign and whatever is no finite number other than zero; `done` says whether that was
// all.
template <class Float>
char* put_special(char* at, Float value, bool& done) {
  *at = '-';
  const auto bits = std::bit_cast<typename Traits<Float>::Bits>(value);
  using Signed = std::make_signed_t<typename Traits<Float>::Bits>;
  const auto negative = static_cast<int>(static_cast<Signed>(bits) < 0);
  const Float magnitude = std::fabs(value);
  done = true;
  if (magnitude > 0 && magnitude <= std::numeric_limits<Float>::max()) [[likely]] {
    done = false;
    return at + negative;
  }
  const auto put = [](char* to, const char* word, std::size_t size) {
    std::memcpy(to, word, size);
    return to + size;
  };
  if (std::isnan(value)) return put(at, "NaN", 3);
  return value == 0 ? put(at + negative, "0.0", 3) : put(at + negative, "Infinity", 8);
}

template <class Float>
char* put_number(char* at, Float value, FloatRule rule) {
  bool done = false;
  at = put_special(at, value, done);
  if (done) return at;
  const Float magnitude = std::fabs(value);
  Decimal decimal;
  if (!Shortener<Float>::run(magnitude, rule, decimal)) [[unlikely]] {
    decimal = exact(magnitude, rule);
  }
  return layout<Traits<Float>::kDigits>(at, decimal);
}

}  // namespace

char* put_float(char* at, float value, FloatRule rule) { return put_number(at, value, rule); }
char* put_double(char* at, double value, FloatRule rule) { return put_number(at, value, rule); }

char* put_six_digits(char* at, float value) {
  bool done = false;
  at = put_special(at, value, done);
  if (done) return at;
  std::array<char, 32> text;
  const auto written = std::to_chars(text.data(), text.data() + text.size(), std::fabs(value),
                                     std::chars_format::scientific, 5);
  return layout<9>(at, read_scientific(text.data(), written.ptr, 9, 6));
}

}  // namespace servolley::codec
