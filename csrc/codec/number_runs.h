#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "codec/element_parse.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace servolley::codec {

// Many numbers at a time. A number's end is not found by reading it: the commas of 64 characters
// are found together, so no number waits for the one before it, and one of up to 16 characters is
// read without a branch on its length, its sign or where its point stands, all of which vary from
// number to number. Whatever is unusual stops a run, and the caller reads that element; a run is
// only ever a quicker way to the same result.

#if defined(__SSE2__)
namespace detail {

inline constexpr std::ptrdiff_t kRunBlock = 64;

inline std::uint64_t equal_bytes(const char* at, char wanted) {
  const __m128i pattern = _mm_set1_epi8(wanted);
  std::uint64_t mask = 0;
  for (int i = 0; i < 4; ++i) {
    const __m128i chunk = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + i * 16));
    const int equal = _mm_movemask_epi8(_mm_cmpeq_epi8(chunk, pattern));
    mask |= std::uint64_t{static_cast<unsigned>(equal)} << (i * 16);
  }
  return mask;
}

// Zeros, then 0xFF from 32 on: a load that begins `n` in front of there has its bytes from `n` on
// set.
alignas(32) inline constexpr auto kClearThenSet = [] {
  std::array<std::uint8_t, 64> bytes{};
  for (std::size_t i = 32; i < bytes.size(); ++i) bytes[i] = 0xFF;
  return bytes;
}();

// The bytes of 16 from `first` on, which may be 0 (all) to 32. With `skip` 16, of the 16 behind
// them.
inline __m128i bytes_from(std::size_t first, std::size_t skip = 0) {
  return _mm_loadu_si128(
      reinterpret_cast<const __m128i*>(kClearThenSet.data() + 32 - first + skip));
}

inline __m128i load_text(const char* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

// Powers of ten, and behind 32 places the negative ones.
inline constexpr auto kDivisors = [] {
  std::array<double, 64> divisors{};
  for (std::size_t exponent = 0; exponent < kExactTens.size(); ++exponent) {
    divisors[exponent] = kExactTens[exponent];
    divisors[32 + exponent] = -kExactTens[exponent];
  }
  return divisors;
}();

// digits / 10^scale, with a sign.
struct Token {
  std::uint64_t digits;  // below 10^18
  std::size_t scale;     // up to 22; 0 if there is no point
  std::size_t negative;  // 0 or 1
};

// Each byte that is a digit has a value of 0 to 9.
inline __m128i digit_values(__m128i text) { return _mm_sub_epi8(text, _mm_set1_epi8('0')); }
inline unsigned points(__m128i text) {
  return static_cast<unsigned>(_mm_movemask_epi8(_mm_cmpeq_epi8(text, _mm_set1_epi8('.'))));
}
// Where one of the values is above its limit, which is 0x7F less `slack`.
inline unsigned above(__m128i values, __m128i slack) {
  return static_cast<unsigned>(_mm_movemask_epi8(_mm_adds_epu8(values, slack)));
}

// 16 digits, each in a byte, the first one lowest.
[[gnu::always_inline]] inline std::uint64_t sixteen_digits_value(__m128i digits) {
  // Each pair of digits in 16 bits: 256 * (10 * first + second) + first. The compiler must not see
  // the factor: it would make five instructions of one.
  __m128i factor = _mm_set1_epi16(2561);
  asm("" : "+x"(factor));
  const __m128i twos = _mm_srli_epi16(_mm_mullo_epi16(digits, factor), 8);
  const __m128i fours = _mm_madd_epi16(twos, _mm_set1_epi32(1 << 16 | 100));
  const __m128i packed = _mm_packs_epi32(fours, fours);
  const __m128i eights = _mm_madd_epi16(packed, _mm_set1_epi32(1 << 16 | 10000));
  const auto halves = static_cast<std::uint64_t>(_mm_cvtsi128_si64(eights));
  return (halves & 0xFFFFFFFF) * 100'000'000 + (halves >> 32);
}

// Whether a number without its sign begins with a digit, and not with a 0 and another digit.
[[gnu::always_inline]] inline bool starts_well(const char* at) {
  std::uint16_t start;
  std::memcpy(&start, at, sizeof start);
  // As a number of base 256: the first digit, and what is behind it.
  start = std::rotl(static_cast<std::uint16_t>(start - 0x3030), 8);
  return static_cast<std::uint16_t>(start - 10) < 0xA00 - 10;
}

// Up to 16 characters in front of `behind`, read with one load.
[[gnu::always_inline]] inline bool read_narrow(const char* behind, std::size_t size, Token& out) {
  const __m128i mine = bytes_from(16 - size);
  const __m128i text = load_text(behind - 16);
  const unsigned point_mask = points(_mm_and_si128(text, mine));
  // The first one: a second is no digit, below.
  const auto point = static_cast<unsigned>(std::countr_zero(point_mask | 1u << 16));
  __m128i digits = _mm_and_si128(digit_values(text), mine);
  // The fraction moves down by one, over the point; a zero comes in behind it.
  const __m128i fraction = bytes_from(point);
  digits = _mm_or_si128(_mm_andnot_si128(fraction, digits),
                        _mm_and_si128(fraction, _mm_srli_si128(digits, 1)));
  out.scale = 16 - point;
  out.digits = sixteen_digits_value(digits);
  return (above(digits, _mm_set1_epi8(0x76)) | point_mask >> 15) == 0;
}

// Up to 24 characters in front of `behind`, of which 18 at most are significant digits.
[[gnu::always_inline]] inline bool read_wide(const char* behind, std::size_t size, Token& out) {
  const __m128i mine = bytes_from(32 - size);
  const __m128i high_text = _mm_and_si128(load_text(behind - 32), mine);
  const __m128i low_text = load_text(behind - 16);
  const unsigned point_mask = points(low_text) << 16 | points(high_text);
  __m128i high = _mm_and_si128(digit_values(high_text), mine);
  __m128i low = digit_values(low_text);
  // The integer part moves up by one, over the point: there is no room for another digit.
  const unsigned fraction =
      point_mask == 0 ? 0 : static_cast<unsigned>(std::countr_zero(point_mask)) + 1;
  out.scale = (32 - fraction) & 31;
  const __m128i high_fraction = bytes_from(fraction);
  const __m128i low_fraction = bytes_from(fraction, 16);
  const __m128i low_up = _mm_or_si128(_mm_slli_si128(low, 1), _mm_srli_si128(high, 15));
  high = _mm_or_si128(_mm_and_si128(high_fraction, high),
                      _mm_andnot_si128(high_fraction, _mm_slli_si128(high, 1)));
  low = _mm_or_si128(_mm_and_si128(low_fraction, low), _mm_andnot_si128(low_fraction, low_up));
  // Of the high digits, all but the last two must be 0.
  constexpr int kZero = 0x7F7F7F7F;
  const auto strange =
      above(low, _mm_set1_epi8(0x76)) | above(high, _mm_set_epi32(0x76767F7F, kZero, kZero, kZero));
  const auto pair = static_cast<unsigned>(_mm_extract_epi16(high, 7));
  out.digits = ((pair & 0xFF) * 10 + (pair >> 8)) * std::uint64_t{10'000'000'000'000'000} +
               sixteen_digits_value(low);
  return (strange | point_mask >> 31) == 0;
}

inline constexpr std::size_t kNarrow = 16;
inline constexpr std::size_t kWide = 24;
// Readable in front of a number's end.
inline constexpr std::ptrdiff_t kReadBack = 32;

// The number in [at, behind), if it is one in JSON's grammar without an exponent.
[[gnu::always_inline]] inline bool read_token(const char* at, const char* behind, Token& out) {
  out.negative = *at == '-';
  at += out.negative;
  if (!starts_well(at)) [[unlikely]]
    return false;
  const auto size = static_cast<std::size_t>(behind - at);
  if (size <= kNarrow) return read_narrow(behind, size, out);
  return size <= kWide && read_wide(behind, size, out);
}

template <class T>
[[gnu::always_inline]] inline bool convert(const Token& token, T& out) {
  if constexpr (std::is_integral_v<T>) {
    return token.scale == 0 && fit(token.digits, token.negative != 0, out);
  } else if constexpr (std::is_same_v<T, Bool>) {
    return false;
  } else {
    const double value = static_cast<double>(static_cast<std::int64_t>(token.digits)) /
                         kDivisors[token.negative * 32 + token.scale];
    if constexpr (std::is_same_v<T, float>) {
      out = static_cast<float>(value);
      return !near_middle(value);
    } else {
      if constexpr (std::is_same_v<T, double>) {
        out = token.digits <= kExactInDouble
                  ? value
                  : with_sign(nearest_double(token.digits, token.scale), token.negative != 0);
      } else {
        if (token.digits > kExactInDouble) return false;
        out.bits = std::is_same_v<T, Fp16> ? fp16_from_double(value) : bf16_from_double(value);
      }
      return true;
    }
  }
}

template <class T>
[[gnu::always_inline]] inline bool read_run_element(const char* at, const char* behind, T& out) {
  Token token;
  return read_token(at, behind, token) && convert(token, out);
}

}  // namespace detail

// Reads elements, each with a comma behind it, from `at` (where one may begin) on, and stops in
// front of the first that it does not read. `text` is where the text begins. At most `room - next`
// elements are written.
template <class T>
const char* read_run(const char* text, const char* at, const char* end, T*& next, T* room) {
  using detail::kRunBlock;
  if (at - text < detail::kReadBack) return at;
  T* to = next;
  const char* block = at;
  while (end - block >= kRunBlock + kNumberReadAhead && room - to >= kRunBlock) {
    std::uint64_t commas = detail::equal_bytes(block, ',');
    for (; commas != 0; commas &= commas - 1) {
      const char* const comma = block + static_cast<unsigned>(std::countr_zero(commas));
      if (!detail::read_run_element(at + (*at == ' '), comma, *to)) [[unlikely]] {
        next = to;
        return at;
      }
      ++to;
      at = comma + 1;
    }
    block += kRunBlock;
    if (block - at >= kRunBlock) break;
  }
  next = to;
  return at;
}

// The same for short arrays of `length` elements each: `at` is the '[' of the first, the result
// that of the first which is not read; what is read is followed by another one.
template <class T>
const char* read_run_of_rows(const char* text, const char* at, const char* end, T*& next, T* room,
                             std::size_t length) {
  using detail::kRunBlock;
  if (at - text < detail::kReadBack || *at != '[') return at;
  const char* row = at++;
  T* row_next = next;
  const char* block = at;
  while (end - block >= kRunBlock + kNumberReadAhead && room - row_next >= kRunBlock) {
    std::uint64_t ends = detail::equal_bytes(block, ',') | detail::equal_bytes(block, ']');
    // The comma between two rows ends no element.
    if (at > block) ends &= ~std::uint64_t{0} << (at - block);
    while (ends != 0) {
      const char* const behind = block + static_cast<unsigned>(std::countr_zero(ends));
      ends &= ends - 1;
      if (!detail::read_run_element(at + (*at == ' '), behind, *row_next)) [[unlikely]]
        return row;
      ++row_next;
      at = behind + 1;
      if (*behind == ',') continue;
      ends &= ends - 1;
      if (static_cast<std::size_t>(row_next - next) != length || *at != ',') return row;
      ++at;
      at += *at == ' ';
      if (*at != '[') return row;
      row = at++;
      next = row_next;
    }
    block += kRunBlock;
    if (block - at >= kRunBlock) break;
  }
  return row;
}
#else
template <class T>
const char* read_run(const char*, const char* at, const char*, T*&, T*) {
  return at;
}
template <class T>
const char* read_run_of_rows(const char*, const char* at, const char*, T*&, T*, std::size_t) {
  return at;
}
#endif

}  // namespace servolley::codec
