#pragma once

#include <cstdint>

namespace servolley::codec {

enum class FloatRule : std::uint8_t {
  // The fewest digits that read back as the same value, and of those the nearest.
  kShortest,
  // TensorFlow Serving's: 6 significant digits if they read back as the same value, else 9
  // (FP32) or 17 (FP64).
  kTensorFlow,
};

// A formatted number takes at most this many bytes, and the writers may touch this many.
inline constexpr unsigned kMaxFloatText = 40;

// Write a number as JSON the way printf's %g lays out its digits, with ".0" where that would read
// as an integer; NaN, Infinity and -Infinity as bare words. Return the end of the text.
char* put_float(char* at, float value, FloatRule rule);
// put_float for the many values that people round: below 100, with four decimals at most. The same
// text at a fraction of the cost, or nullptr for other values; by either rule.
char* put_few_decimals(char* at, float value);
char* put_double(char* at, double value, FloatRule rule);
// At most 6 significant digits, which tell all FP16 and BF16 values apart.
char* put_six_digits(char* at, float value);

}  // namespace servolley::codec
