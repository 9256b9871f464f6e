#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace servolley::codec {

// FP16 and BF16 as the bits that tensors hold. From FP64 (what every JSON reader makes of a
// number), rounded to nearest even.

inline float float_from_bf16(std::uint16_t bits) {
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

inline float float_from_fp16(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16;
  const std::uint32_t exponent = bits >> 10 & 31u;
  const std::uint32_t fraction = bits & 0x3FFu;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000u | fraction << 13);
  if (exponent == 0) {
    const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
    return sign ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

namespace detail {

// A format with `kFraction` fraction bits and smallest normal exponent `kMinExponent`.
template <int kFraction, int kMinExponent>
std::uint16_t narrow(double value) {
  constexpr int kExponentBits = 15 - kFraction;
  constexpr unsigned kInfinity = ((1u << kExponentBits) - 1) << kFraction;
  const unsigned sign = std::signbit(value) ? 0x8000u : 0;
  const double magnitude = std::fabs(value);
  if (std::isnan(value))
    return static_cast<std::uint16_t>(sign | kInfinity | 1u << (kFraction - 1));
  if (std::isinf(value)) return static_cast<std::uint16_t>(sign | kInfinity);
  if (magnitude == 0) return static_cast<std::uint16_t>(sign);
  int exponent = std::ilogb(magnitude);
  if (exponent < kMinExponent) exponent = kMinExponent;
  if (exponent > -kMinExponent + 1) return static_cast<std::uint16_t>(sign | kInfinity);
  // In units of the last place; nearbyint rounds to nearest even. A carry runs into the exponent.
  const auto units =
      static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, kFraction - exponent)));
  const auto biased = static_cast<unsigned>(exponent - kMinExponent) << kFraction;
  const unsigned bits = biased + units;
  return static_cast<std::uint16_t>(sign | (bits > kInfinity ? kInfinity : bits));
}

}  // namespace detail

inline std::uint16_t fp16_from_double(double value) { return detail::narrow<10, -14>(value); }
inline std::uint16_t bf16_from_double(double value) { return detail::narrow<7, -126>(value); }

}  // namespace servolley::codec
