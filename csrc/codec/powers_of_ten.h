#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace servolley::codec {

__extension__ using Uint128 = unsigned __int128;

// 10^k = (high + low/2^64) * 2^(floor(log2 10^k) - 63), rounded down to 128 bits; exact for
// 0 <= k <= 55, where 5^k fits.
struct PowerOfTen {
  std::uint64_t high;
  std::uint64_t low;
};

inline constexpr int kMinPowerOfTen = -300;
inline constexpr int kMaxPowerOfTen = 345;

// floor(log2(10^k)) and floor(log10(2^e)), exact in the ranges used here (|k| <= 400, |e| <= 1200).
constexpr int floor_log2_of_power_of_ten(int k) { return (k * 1741647) >> 19; }
constexpr int floor_log10_of_power_of_two(int e) { return (e * 1262611) >> 22; }

namespace detail {

// Unsigned integers of 1152 bits, least significant limb first: 2^1151 / 5^300 still has more than
// 450 significant bits, and 5^345 fits.
using Limbs = std::array<std::uint64_t, 18>;

constexpr PowerOfTen top_bits(const Limbs& limbs) {
  std::size_t top = limbs.size() - 1;
  while (limbs[top] == 0) --top;
  const auto limb = [&](std::size_t below) { return below <= top ? limbs[top - below] : 0; };
  const int shift = std::countl_zero(limbs[top]);
  if (shift == 0) return {limb(0), limb(1)};
  return {limb(0) << shift | limb(1) >> (64 - shift), limb(1) << shift | limb(2) >> (64 - shift)};
}

constexpr auto make_powers_of_ten() {
  std::array<PowerOfTen, kMaxPowerOfTen - kMinPowerOfTen + 1> table{};
  Limbs up{1};
  for (int k = 0; k <= kMaxPowerOfTen; ++k) {
    table[static_cast<std::size_t>(k - kMinPowerOfTen)] = top_bits(up);
    Uint128 carry = 0;
    for (auto& limb : up) {
      carry += Uint128{limb} * 5;
      limb = static_cast<std::uint64_t>(carry);
      carry >>= 64;
    }
  }
  // Dividing step by step rounds down once in total: floor(floor(x / 5) / 5) = floor(x / 25).
  Limbs down{};
  down.back() = std::uint64_t{1} << 63;
  for (int k = -1; k >= kMinPowerOfTen; --k) {
    Uint128 rest = 0;
    for (std::size_t i = down.size(); i-- > 0;) {
      rest = rest << 64 | down[i];
      down[i] = static_cast<std::uint64_t>(rest / 5);
      rest %= 5;
    }
    table[static_cast<std::size_t>(k - kMinPowerOfTen)] = top_bits(down);
  }
  return table;
}

}  // namespace detail

inline constexpr auto kPowersOfTen = detail::make_powers_of_ten();

constexpr const PowerOfTen& power_of_ten(int k) {
  return kPowersOfTen[static_cast<std::size_t>(k - kMinPowerOfTen)];
}

}  // namespace servolley::codec
