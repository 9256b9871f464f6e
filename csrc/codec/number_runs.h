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

// 16 zeros, then 16 times 0xFF, as a window on which a load finds its first bytes clear, its last
// set.
alignas(32) inline constexpr auto kClearThenSet = [] {
  std::array<std::uint8_t, 32> bytes{};
  for (std::size_t i = 16; i < bytes.size(); ++i) bytes[i] = 0xFF;
  return bytes;
}();

// The last `count` of 16 bytes, which may be all.
inline __m128i last_bytes(std::size_t count) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(kClearThenSet.data() + count));
}

// What the digits are to be divided by: by sign (32 each), then by where the point stands.
inline constexpr std::size_t kNoPoint = 16;
inline constexpr auto kDivisors = [] {
  std::array<double, 64> divisors{};
  for (std::size_t point = 0; point <= kNoPoint; ++point) {
    divisors[point] = kExactTens[kNoPoint - point];
    divisors[32 + point] = -divisors[point];
  }
  return divisors;
}();

struct Token {
  std::uint64_t digits;  // 16 at most; behind a fraction's, a zero is appended
  std::size_t point;     // where it stands if the number ends at 16
  std::size_t negative;  // 0 or 1
};

// The number in [at, behind): 1 to 16 characters and a sign. 16 bytes in front of `behind` must be
// readable. False for everything that is no such number in JSON's grammar.
[[gnu::always_inline]] inline bool read_token(const char* at, const char* behind, Token& out) {
  out.negative = *at == '-';
  at += out.negative;
  const auto size = static_cast<std::size_t>(behind - at);
  if (size > 16) return false;
  const __m128i text = _mm_loadu_si128(reinterpret_cast<const __m128i*>(behind - 16));
  const __m128i mine = last_bytes(size);
  const __m128i points = _mm_and_si128(_mm_cmpeq_epi8(text, _mm_set1_epi8('.')), mine);
  const auto point_mask = static_cast<unsigned>(_mm_movemask_epi8(points));
  // The first one: a second is no digit, below.
  out.point = static_cast<unsigned>(std::countr_zero(point_mask | 1u << kNoPoint));
  __m128i digits = _mm_and_si128(_mm_sub_epi8(text, _mm_set1_epi8('0')), mine);
  // The fraction moves down by one, over the point.
  const __m128i from_point = last_bytes(kNoPoint - out.point);
  digits = _mm_or_si128(_mm_andnot_si128(from_point, digits),
                        _mm_and_si128(from_point, _mm_srli_si128(digits, 1)));
  const auto strange =
      static_cast<unsigned>(_mm_movemask_epi8(_mm_adds_epu8(digits, _mm_set1_epi8(0x76))));
  // As a number of 256: the first digit, and what is behind it. A 0 must have no digit behind it.
  std::uint16_t start;
  std::memcpy(&start, at, sizeof start);
  start = std::rotl(static_cast<std::uint16_t>(start - 0x3030), 8);
  const bool starts_well = static_cast<std::uint16_t>(start - 10) < 0xA00 - 10;
  if ((strange | point_mask >> 15) != 0 || !starts_well) [[unlikely]]
    return false;
  // Each pair of digits in 16 bits: 256 * (10 * first + second) + first. The compiler must not see
  // the factor: it would make five instructions of one.
  __m128i factor = _mm_set1_epi16(2561);
  asm("" : "+x"(factor));
  const __m128i twos = _mm_srli_epi16(_mm_mullo_epi16(digits, factor), 8);
  const __m128i fours = _mm_madd_epi16(twos, _mm_set1_epi32(1 << 16 | 100));
  const __m128i packed = _mm_packs_epi32(fours, fours);
  const __m128i eights = _mm_madd_epi16(packed, _mm_set1_epi32(1 << 16 | 10000));
  const auto halves = static_cast<std::uint64_t>(_mm_cvtsi128_si64(eights));
  out.digits = (halves & 0xFFFFFFFF) * 100'000'000 + (halves >> 32);
  return true;
}

template <class T>
[[gnu::always_inline]] inline bool convert(const Token& token, T& out) {
  if constexpr (std::is_integral_v<T>) {
    return token.point == kNoPoint && fit(token.digits, token.negative != 0, out);
  } else if constexpr (std::is_same_v<T, Bool>) {
    return false;
  } else {
    const double value = static_cast<double>(static_cast<std::int64_t>(token.digits)) /
                         kDivisors[token.negative * 32 + token.point];
    if constexpr (std::is_same_v<T, float>) {
      out = static_cast<float>(value);
      return !near_middle(value);
    } else {
      if (token.digits > kExactInDouble) return false;
      if constexpr (std::is_same_v<T, double>) {
        out = value;
      } else {
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
  if (at - text < 16) return at;
  T* to = next;
  while (end - at >= kRunBlock + kNumberReadAhead && room - to >= kRunBlock) {
    const char* const block = at;
    std::uint64_t commas = detail::equal_bytes(block, ',');
    if (commas == 0) break;
    do {
      const char* const comma = block + static_cast<unsigned>(std::countr_zero(commas));
      commas &= commas - 1;
      if (!detail::read_run_element(at + (*at == ' '), comma, *to)) [[unlikely]] {
        next = to;
        return at;
      }
      ++to;
      at = comma + 1;
    } while (commas != 0);
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
  if (at - text < 16 || *at != '[') return at;
  const char* row = at++;
  T* row_next = next;
  while (end - at >= kRunBlock + kNumberReadAhead && room - row_next >= kRunBlock) {
    const char* const block = at;
    std::uint64_t ends = detail::equal_bytes(block, ',') | detail::equal_bytes(block, ']');
    if (ends == 0) return row;
    do {
      const char* const behind = block + static_cast<unsigned>(std::countr_zero(ends));
      ends &= ends - 1;
      if (!detail::read_run_element(at + (*at == ' '), behind, *row_next)) [[unlikely]]
        return row;
      ++row_next;
      at = behind + 1;
      if (*behind == ',') continue;
      // The comma between two rows ends no element.
      ends &= ends - 1;
      if (static_cast<std::size_t>(row_next - next) != length || *at != ',') return row;
      ++at;
      at += *at == ' ';
      if (*at != '[') return row;
      row = at++;
      next = row_next;
    } while (ends != 0);
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
