#include "codec/number_format.h"

#include <doctest/doctest.h>

#include <bit>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "codec/json_write.h"

namespace servolley::codec {
namespace {

std::string text_of(float value, FloatRule rule) {
  char text[2 * kMaxFloatText];
  return {text, put_float(text, value, rule)};
}

std::string text_of(double value, FloatRule rule) {
  char text[2 * kMaxFloatText];
  return {text, put_double(text, value, rule)};
}

float read_back(const char* text, float) { return std::strtof(text, nullptr); }
double read_back(const char* text, double) { return std::strtod(text, nullptr); }

// TensorFlow Serving's rule, word for word.
template <class Float>
std::string by_printf(Float value) {
  char text[64];
  std::snprintf(text, sizeof text, "%.6g", static_cast<double>(value));
  if (read_back(text, value) != value) {
    std::snprintf(text, sizeof text, sizeof value == 4 ? "%.9g" : "%.17g",
                  static_cast<double>(value));
  }
  std::string out = text;
  if (out.find_first_of(".e") == std::string::npos) out += ".0";
  return out;
}

// Significant digits without leading and trailing zeros.
std::string significant(std::string_view text) {
  std::string digits;
  for (const char c : text.substr(0, text.find('e'))) {
    if (c >= '0' && c <= '9' && !(digits.empty() && c == '0')) digits += c;
  }
  while (!digits.empty() && digits.back() == '0') digits.pop_back();
  return digits;
}

template <class Float>
void check(Float value) {
  CAPTURE(value);
  REQUIRE(text_of(value, FloatRule::kTensorFlow) == by_printf(value));
  const std::string shortest = text_of(value, FloatRule::kShortest);
  REQUIRE(shortest.size() <= kMaxFloatText);
  REQUIRE(read_back(shortest.c_str(), value) == value);
  char text[64];
  const auto end =
      std::to_chars(text, text + sizeof text, value, std::chars_format::scientific).ptr;
  REQUIRE(significant(shortest) == significant({text, static_cast<std::size_t>(end - text)}));
}

TEST_CASE("every FP32 exponent with many mantissas prints as printf does") {
  std::mt19937 random(1);
  for (std::uint32_t exponent = 0; exponent < 255; ++exponent) {
    for (std::uint32_t mantissa : {0u, 1u, 2u, 3u, 0x7FFFFFu, 0x7FFFFEu, 0x400000u, 0x3FFFFFu}) {
      check(std::bit_cast<float>(exponent << 23 | mantissa));
    }
    for (int i = 0; i < 1500; ++i) {
      check(std::bit_cast<float>(exponent << 23 | static_cast<std::uint32_t>(random() >> 9)));
    }
  }
}

TEST_CASE("every FP64 exponent with many mantissas prints as printf does") {
  std::mt19937_64 random(2);
  for (std::uint64_t exponent = 0; exponent < 2047; ++exponent) {
    for (std::uint64_t mantissa :
         {std::uint64_t{0}, std::uint64_t{1}, (std::uint64_t{1} << 52) - 1}) {
      check(std::bit_cast<double>(exponent << 52 | mantissa));
    }
    for (int i = 0; i < 60; ++i) check(std::bit_cast<double>(exponent << 52 | random() >> 12));
  }
}

TEST_CASE("values with few digits, integers and ties print as printf does") {
  std::mt19937_64 random(3);
  char text[40];
  for (int i = 0; i < 100'000; ++i) {
    const int digits = static_cast<int>(random() % 10);
    const double value = static_cast<double>(random() % 2'000'000) / std::pow(10, digits);
    std::snprintf(text, sizeof text, "%.*g", 1 + static_cast<int>(random() % 11), value);
    check(std::strtof(text, nullptr));
    check(std::strtod(text, nullptr));
    check(static_cast<float>(random() >> random() % 64));
    check(static_cast<double>(random() >> random() % 64));
    // Exact multiples of a power of two: the decimal expansion often ends in a lone 5.
    check(static_cast<float>(random() % (1u << 24)) / static_cast<float>(1u << random() % 24));
    check(static_cast<double>(random() % (std::uint64_t{1} << 53)) /
          static_cast<double>(std::uint64_t{1} << random() % 53));
  }
  check(2097152.125f);
  check(1048576.0625f);
}

TEST_CASE("powers of two and of ten, and their neighbours") {
  for (int e = -149; e <= 127; ++e) {
    const float power = std::ldexp(1.0f, e);
    check(power);
    check(std::nextafterf(power, 0));
    check(std::nextafterf(power, std::numeric_limits<float>::max()));
  }
  for (int e = -1074; e <= 1023; ++e) {
    const double power = std::ldexp(1.0, e);
    check(power);
    check(std::nextafter(power, 0));
    check(std::nextafter(power, std::numeric_limits<double>::max()));
  }
  for (int e = -323; e <= 308; ++e) {
    const double power = std::strtod(("1e" + std::to_string(e)).c_str(), nullptr);
    check(power);
    check(std::nextafter(power, 0));
    const auto narrow = static_cast<float>(power);
    if (narrow > 0 && narrow <= std::numeric_limits<float>::max()) {
      check(narrow);
      check(std::nextafterf(narrow, 0));
    }
  }
}

TEST_CASE("the tokens of TensorFlow Serving's own tests") {
  const auto tf = [](float value) { return text_of(value, FloatRule::kTensorFlow); };
  CHECK(tf(9000000.0f) == "9e+06");
  CHECK(tf(999999.0f) == "999999.0");
  CHECK(tf(0.5f) == "0.5");
  CHECK(tf(0.0003f) == "0.0003");
  CHECK(tf(3e-5f) == "3e-05");
  CHECK(tf(555557.5f) == "555557.5");
  CHECK(tf(3.0f) == "3.0");
  CHECK(tf(16777216.0f) == "16777216.0");
  CHECK(tf(0.0f) == "0.0");
  CHECK(tf(-0.0f) == "-0.0");
  CHECK(tf(std::numeric_limits<float>::quiet_NaN()) == "NaN");
  CHECK(tf(-std::numeric_limits<float>::quiet_NaN()) == "NaN");
  CHECK(tf(std::numeric_limits<float>::infinity()) == "Infinity");
  CHECK(tf(-std::numeric_limits<float>::infinity()) == "-Infinity");
  CHECK(text_of(0.1, FloatRule::kTensorFlow) == "0.1");
  CHECK(text_of(1.0 / 3, FloatRule::kTensorFlow) == "0.33333333333333331");
  CHECK(text_of(1.0f / 3, FloatRule::kTensorFlow) == "0.333333343");
}

TEST_CASE("shortest text") {
  CHECK(text_of(0.1f, FloatRule::kShortest) == "0.1");
  CHECK(text_of(1.0f / 3, FloatRule::kShortest) == "0.33333334");
  CHECK(text_of(16777216.0f, FloatRule::kShortest) == "16777216.0");
  CHECK(text_of(1e10f, FloatRule::kShortest) == "1e+10");
  CHECK(text_of(1.0 / 3, FloatRule::kShortest) == "0.3333333333333333");
  CHECK(text_of(1e15, FloatRule::kShortest) == "1000000000000000.0");
  CHECK(text_of(5e-324, FloatRule::kShortest) == "5e-324");
  CHECK(text_of(std::numeric_limits<double>::max(), FloatRule::kShortest) ==
        "1.7976931348623157e+308");
}

TEST_CASE("values of few decimals have the text that every value has") {
  char text[2 * kMaxFloatText];
  int found = 0;
  const auto check = [&](float value) {
    char* const end = put_few_decimals(text, value);
    if (!end) return;
    ++found;
    const std::string few(text, static_cast<std::size_t>(end - text));
    CAPTURE(few);
    REQUIRE(few == text_of(value, FloatRule::kShortest));
    REQUIRE(few == text_of(value, FloatRule::kTensorFlow));
  };
  for (int units = 1; units < 1'000'000; ++units) {
    const int before = found;
    check(static_cast<float>(units / 1e4));
    REQUIRE(found == before + 1);
  }
  std::mt19937 random(11);
  for (int i = 0; i < 1'000'000; ++i)
    check(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
  for (int i = 0; i < 200'000; ++i) {  // next to what is rounded
    const auto value = static_cast<float>(static_cast<int>(random() % 1'000'000) / -1e4);
    check(std::nextafter(value, 0.0F));
    check(std::nextafter(value, -1e9F));
    check(value);
  }
  for (const float value : {0.0F, -0.0F, 100.0F, 1e9F, 1e30F, 0.00004F, -INFINITY, INFINITY, NAN}) {
    CHECK(put_few_decimals(text, value) == nullptr);
  }
}

TEST_CASE("six digits as printf's %.6g") {
  std::mt19937 random(4);
  for (int i = 0; i < 100'000; ++i) {
    const auto value = std::bit_cast<float>(static_cast<std::uint32_t>(random()));
    if (!std::isfinite(value)) continue;
    char expected[40];
    std::snprintf(expected, sizeof expected, "%.6g", static_cast<double>(value));
    std::string with_point = expected;
    if (with_point.find_first_of(".e") == std::string::npos) with_point += ".0";
    char text[2 * kMaxFloatText];
    REQUIRE(std::string(text, put_six_digits(text, value)) == with_point);
  }
}

TEST_CASE("integers") {
  std::mt19937_64 random(5);
  char text[24];
  for (int i = 0; i < 100'000; ++i) {
    const std::uint64_t value = random() >> random() % 64;
    REQUIRE(std::string(text, put_uint(text, value)) == std::to_string(value));
    const auto other = static_cast<std::int64_t>(random()) >> random() % 64;
    REQUIRE(std::string(text, put_int(text, other)) == std::to_string(other));
  }
  CHECK(std::string(text, put_int(text, std::numeric_limits<std::int64_t>::min())) ==
        "-9223372036854775808");
  CHECK(std::string(text, put_uint(text, std::numeric_limits<std::uint64_t>::max())) ==
        "18446744073709551615");
}

}  // namespace
}  // namespace servolley::codec
