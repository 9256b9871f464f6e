#include "codec/number_parse.h"

#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>

#include "codec/codec_fixture.h"
#include "codec/half.h"

namespace servolley::codec {
namespace {

using namespace testing;

// Reads one number through the whole codec, as the only element of a tensor.
template <class T>
bool read_one(Codec& codec, DType dtype, const std::string& text, T& out) {
  codec.signature.inputs[0].dtype = dtype;
  if (!codec.tfs("{\"instances\":[" + text + "]}").ok()) return false;
  std::memcpy(&out, codec.request.inputs[0].view.data, sizeof out);
  return true;
}

template <class T>
std::uint64_t bits(T value) {
  std::uint64_t out = 0;
  std::memcpy(&out, &value, sizeof value);
  return out;
}

class Reader {
 public:
  Reader() : codec_(signature(DType::kFp32, {-1}, true)) {}
  // Compares both widths with the C library's correctly rounded conversion.
  void check(const std::string& text) {
    CAPTURE(text);
    float narrow = 0;
    double wide = 0;
    REQUIRE(read_one(codec_, DType::kFp32, text, narrow));
    REQUIRE(read_one(codec_, DType::kFp64, text, wide));
    REQUIRE(bits(narrow) == bits(std::strtof(text.c_str(), nullptr)));
    REQUIRE(bits(wide) == bits(std::strtod(text.c_str(), nullptr)));
  }

 private:
  Codec codec_;
};

TEST_CASE("numbers of every length and exponent are correctly rounded") {
  Reader reader;
  std::mt19937_64 random(7);
  for (int i = 0; i < 60'000; ++i) {
    std::string text = random() % 2 ? "-" : "";
    const auto digits = [&](std::uint64_t count) {
      std::string out;
      for (std::uint64_t k = 0; k < count; ++k) out += static_cast<char>('0' + random() % 10);
      return out;
    };
    std::string integer = digits(1 + random() % (random() % 8 ? 4 : 22));
    while (integer.size() > 1 && integer[0] == '0') integer.erase(0, 1);
    text += integer;
    if (random() % 4) text += '.' + std::string(random() % 3, '0') + digits(1 + random() % 22);
    if (random() % 4 == 0) {
      text += random() % 2 ? 'e' : 'E';
      text += std::array<const char*, 3>{"", "+", "-"}[random() % 3];
      text += std::to_string(random() % 38);
    }
    if (std::fabs(std::strtod(text.c_str(), nullptr)) > 1e300) continue;
    reader.check(text);
  }
}

TEST_CASE("printed values of every exponent read back") {
  Reader reader;
  std::mt19937_64 random(8);
  char text[800];
  for (unsigned exponent = 0; exponent < 255; ++exponent) {
    for (int i = 0; i < 60; ++i) {
      const auto value =
          std::bit_cast<float>(exponent << 23 | static_cast<unsigned>(random() >> 41));
      for (const char* format : {"%.6g", "%.9g", "%.17g", "%.25e"}) {
        std::snprintf(text, sizeof text, format, static_cast<double>(value));
        reader.check(text);
      }
    }
  }
}

TEST_CASE("the middle between two neighbours goes to the even one, a hair beside it does not") {
  Reader reader;
  std::mt19937_64 random(9);
  char text[800];
  for (unsigned exponent = 1; exponent < 254; ++exponent) {
    for (int i = 0; i < 12; ++i) {
      // An FP64 value halfway between two FP32 values has an exact decimal expansion.
      const auto low = std::bit_cast<float>(exponent << 23 | static_cast<unsigned>(random() >> 41));
      const double middle =
          (static_cast<double>(low) +
           static_cast<double>(std::nextafterf(low, std::numeric_limits<float>::infinity()))) /
          2;
      std::snprintf(text, sizeof text, "%.180f", middle);
      reader.check(text);
      std::string above(text);
      above += '1';
      reader.check(above);
      std::snprintf(text, sizeof text, "%.20g", middle);
      reader.check(text);
      std::snprintf(text, sizeof text, "%.17g", std::nextafter(middle, random() % 2 ? 0.0 : 1e300));
      reader.check(text);
    }
  }
  for (const char* tie : {"16777217", "16777219", "16777217.0", "1.6777217e7", "33554434",
                          "33554438", "9007199254740993", "0.1e1", "8388608.5", "4194304.25"}) {
    reader.check(tie);
  }
}

TEST_CASE("the edges of the ranges") {
  Reader reader;
  for (const char* text : {"0", "-0", "0.0", "-0.0", "0e5", "1e-400", "1.17549435e-38", "1.4e-45",
                           "7e-46", "3.4028235e38", "2.2250738585072014e-308", "4.9e-324",
                           "1.7976931348623157e308", "3.4028235677973366e38", "1e22", "1e23",
                           "123456789012345678901234567890", "0.000000000000000000000000000001"}) {
    reader.check(text);
  }
}

TEST_CASE("malformed numbers are refused") {
  Codec codec(signature(DType::kFp32, {-1}, true));
  float value = 0;
  for (const char* text : {"01",   "-",       "+1",    ".5",  "1.",  "-.5", "1e",    "1e+",
                           "1.e5", "1_0",     "0x10",  "1,",  "--1", "1-2", "Nan",   "nan",
                           "inf",  "Infinit", "-NaN1", "1 2", "00",  "-01", "1e5.5", "1.2.3"}) {
    CAPTURE(text);
    for (const std::size_t padding : {0, 100}) {  // near the end of the text and far from it
      CHECK(!read_one(codec, DType::kFp32,
                      std::string(text) + std::string(padding, ' ') + (padding ? ",1" : ""),
                      value));
    }
  }
}

TEST_CASE("NaN and the infinities are numbers of floating types only") {
  Codec codec(signature(DType::kFp32, {-1}, true));
  float value = 0;
  REQUIRE(read_one(codec, DType::kFp32, "NaN", value));
  CHECK(std::isnan(value));
  for (const char* text : {"Infinity", "Inf"}) {
    REQUIRE(read_one(codec, DType::kFp32, text, value));
    CHECK(value == std::numeric_limits<float>::infinity());
    REQUIRE(read_one(codec, DType::kFp32, std::string("-") + text, value));
    CHECK(value == -std::numeric_limits<float>::infinity());
    std::int64_t integer = 0;
    CHECK(!read_one(codec, DType::kInt32, text, integer));
  }
}

template <class T>
void check_integer_range(DType dtype) {
  CAPTURE(oip_name(dtype));
  Codec codec(signature(dtype, {-1}, true));
  using Limits = std::numeric_limits<T>;
  T value{};
  REQUIRE(read_one(codec, dtype, std::to_string(Limits::max()), value));
  CHECK(value == Limits::max());
  REQUIRE(read_one(codec, dtype, std::to_string(Limits::min()), value));
  CHECK(value == Limits::min());
  const auto next = [](std::string text) {  // the magnitude plus one
    std::size_t i = text.size() - 1;
    while (text[i] == '9') text[i--] = '0';
    ++text[i];
    return text;
  };
  CHECK(!read_one(codec, dtype, next(std::to_string(Limits::max())), value));
  CHECK(!read_one(codec, dtype, Limits::is_signed ? next(std::to_string(Limits::min())) : "-1",
                  value));
  for (const char* text :
       {"1.0", "1e2", "1.5", "99999999999999999999999", "-99999999999999999999999", "true", "null",
        "\"1\"", "NaN", "01", "1E0"}) {
    CAPTURE(text);
    CHECK(!read_one(codec, dtype, text, value));
    CHECK(!read_one(codec, dtype, std::string(text) + std::string(80, ' '), value));
  }
  std::mt19937_64 random(3);
  for (int i = 0; i < 3000; ++i) {
    const auto expected = static_cast<T>(random() >> random() % 64);
    REQUIRE(read_one(codec, dtype, std::to_string(expected), value));
    REQUIRE(value == expected);
  }
}

TEST_CASE("integers keep exactly to their range") {
  check_integer_range<std::uint8_t>(DType::kUint8);
  check_integer_range<std::uint16_t>(DType::kUint16);
  check_integer_range<std::uint32_t>(DType::kUint32);
  check_integer_range<std::uint64_t>(DType::kUint64);
  check_integer_range<std::int8_t>(DType::kInt8);
  check_integer_range<std::int16_t>(DType::kInt16);
  check_integer_range<std::int32_t>(DType::kInt32);
  check_integer_range<std::int64_t>(DType::kInt64);
}

TEST_CASE("FP16 and BF16 convert both ways") {
  for (unsigned i = 0; i < 65536; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const float fp16 = float_from_fp16(half);
    const float bf16 = float_from_bf16(half);
    if (!std::isnan(fp16)) REQUIRE(fp16_from_double(static_cast<double>(fp16)) == half);
    if (!std::isnan(bf16)) REQUIRE(bf16_from_double(static_cast<double>(bf16)) == half);
  }
  CHECK(fp16_from_double(65504) == 0x7BFF);
  CHECK(fp16_from_double(65519.99) == 0x7BFF);
  CHECK(fp16_from_double(65520) == 0x7C00);
  CHECK(fp16_from_double(1e300) == 0x7C00);
  CHECK(fp16_from_double(-1e300) == 0xFC00);
  CHECK(fp16_from_double(1.0 + 1.0 / 2048) == 0x3C00);  // a tie goes to even
  CHECK(fp16_from_double(1.0 + 3.0 / 2048) == 0x3C02);
  CHECK(fp16_from_double(std::ldexp(1, -25)) == 0);
  CHECK(fp16_from_double(std::ldexp(1.001, -25)) == 1);
  CHECK(bf16_from_double(1.0 + 1.0 / 256) == 0x3F80);
  CHECK(bf16_from_double(3.39e38) == 0x7F7F);
  CHECK(bf16_from_double(3.4e38) == 0x7F80);
  CHECK(std::isnan(float_from_fp16(fp16_from_double(std::nan("")))));
  CHECK(std::isnan(float_from_bf16(bf16_from_double(std::nan("")))));
}

}  // namespace
}  // namespace servolley::codec
