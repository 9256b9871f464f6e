#include <doctest/doctest.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "codec/codec_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

// What a number's text looks like: as short as pixels, as long as Python's, with and without a
// sign, a point, an exponent.
std::string number(std::mt19937_64& random, bool integer) {
  char text[64];
  const double unit = std::uniform_real_distribution<double>(-1, 1)(random);
  switch (integer ? random() % 2 : random() % 9) {
    case 0:
      std::snprintf(text, sizeof text, "%d", static_cast<int>(unit * 256));
      break;
    case 1:
      std::snprintf(text, sizeof text, "%lld", static_cast<long long>(unit * 2147483647));
      break;
    case 2:
    case 3:
      std::snprintf(text, sizeof text, "%.*f", static_cast<int>(1 + random() % 6), unit);
      break;
    case 4:
      std::snprintf(text, sizeof text, "%.*f", static_cast<int>(1 + random() % 15), unit * 1e4);
      break;
    case 5:
      std::snprintf(text, sizeof text, "%.17g", unit);
      break;
    case 6:
      std::snprintf(text, sizeof text, "%.*e", static_cast<int>(random() % 9), unit * 1e-3);
      break;
    case 7:  // 18 digits, which FP64 has to round
      std::snprintf(text, sizeof text, "%.*f", static_cast<int>(12 + random() % 7), unit * 100);
      break;
    default:
      std::snprintf(text, sizeof text, "%s", random() % 2 ? "-0.0" : "-0");
  }
  return text;
}

struct Style {
  const char* comma;
  const char* open;
  const char* close;
};
constexpr Style kStyles[] = {{",", "[", "]"}, {", ", "[", "]"}, {",\n    ", "[ ", "\n]"}};

std::string join(const std::vector<std::string>& texts, std::size_t row, const Style& style) {
  std::string out = style.open;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    if (i) out += style.comma;
    if (row && i % row == 0) out += style.open;
    out += texts[i];
    if (row && i % row == row - 1) out += style.close;
  }
  return out + style.close;
}

template <class T, class Read>
void check_all(Codec& codec, DType dtype, const std::vector<std::string>& texts, Read read) {
  codec.signature.inputs[0].dtype = dtype;
  for (const Style& style : kStyles) {
    for (const std::size_t row : {0, 1, 3, 40}) {
      CAPTURE(style.comma);
      CAPTURE(row);
      codec.signature.inputs[0].shape = row ? Shape{-1, -1} : Shape{-1};
      REQUIRE(codec.tfs("{\"instances\":" + join(texts, row, style) + "}").ok());
      const TensorView& view = codec.request.inputs[0].view;
      REQUIRE(view.bytes == texts.size() * sizeof(T));
      for (std::size_t i = 0; i < texts.size(); ++i) {
        T value;
        std::memcpy(&value, static_cast<const std::byte*>(view.data) + i * sizeof value,
                    sizeof value);
        const T expected = read(texts[i]);
        CAPTURE(texts[i]);
        REQUIRE(std::memcmp(&value, &expected, sizeof value) == 0);
      }
    }
  }
}

TEST_CASE("arrays of numbers of mixed forms are correctly rounded") {
  Codec codec(signature(DType::kFp32, {-1}, true));
  std::mt19937_64 random(3);
  for (int round = 0; round < 40; ++round) {
    // Sometimes one form most of the time, so that runs are long.
    std::vector<std::string> texts;
    for (int i = 0; i < 1200; ++i) {
      texts.push_back(round % 2 ? number(random, false)
                                : number(random, round % 4 == 0 || random() % 50 != 0));
    }
    check_all<float>(codec, DType::kFp32, texts,
                     [](const std::string& text) { return std::strtof(text.c_str(), nullptr); });
    check_all<double>(codec, DType::kFp64, texts,
                      [](const std::string& text) { return std::strtod(text.c_str(), nullptr); });
  }
}

TEST_CASE("arrays of integers of mixed length") {
  Codec codec(signature(DType::kInt32, {-1}, true));
  std::mt19937_64 random(5);
  for (int round = 0; round < 10; ++round) {
    std::vector<std::string> texts;
    for (int i = 0; i < 1200; ++i) texts.push_back(number(random, true));
    check_all<std::int32_t>(codec, DType::kInt32, texts, [](const std::string& text) {
      return static_cast<std::int32_t>(std::strtol(text.c_str(), nullptr, 10));
    });
  }
}

TEST_CASE("decimals in the middle between two FP32 values go to the even one") {
  Codec codec(signature(DType::kFp32, {-1}, true));
  std::vector<std::string> texts;
  for (int i = 0; i < 2000; ++i) {
    char text[64];
    std::snprintf(text, sizeof text, "%d", 16'777'217 + 2 * i);
    texts.emplace_back(text);
    std::snprintf(text, sizeof text, "%.1f", 8'388'608.5 + i);
    texts.emplace_back(text);
    std::snprintf(text, sizeof text, "%.7f", 131'072.00390625 + i / 128.0);
    texts.emplace_back(text);
  }
  check_all<float>(codec, DType::kFp32, texts,
                   [](const std::string& text) { return std::strtof(text.c_str(), nullptr); });
}

TEST_CASE("one malformed number anywhere in an array refuses it") {
  Codec codec(signature(DType::kFp32, {-1}, true));
  const std::vector<std::string> malformed = {"01",
                                              "-",
                                              "+1",
                                              ".5",
                                              "1.",
                                              "-.5",
                                              "1e",
                                              "",
                                              " ",
                                              "--1",
                                              "1-2",
                                              "nan",
                                              "1 2",
                                              "00",
                                              "-01",
                                              "1.2.3",
                                              "1..2",
                                              "0.1234567890123.",
                                              "00000000000000001",
                                              "\"1\"",
                                              "[1]",
                                              "1]",
                                              "1;2",
                                              "0x10",
                                              "1\001",
                                              "0.1/2",
                                              "0.1:2",
                                              "\xB1",
                                              "- 1",
                                              "true",
                                              "null",
                                              "{}",
                                              "0.12345678901234567.",
                                              "1.2345678901234.67",
                                              "-.12345678901234567",
                                              "12345678901234567.",
                                              "01.23456789012345678",
                                              "1.23456789012345e",
                                              "1.2345678901:3456789",
                                              "1.234567890-23456789",
                                              "00.1234567890123456"};
  for (const std::string& bad : malformed) {
    for (const std::size_t position : {100, 137, 250, 399}) {
      for (const DType dtype : {DType::kFp32, DType::kFp64, DType::kInt32}) {
        for (const std::size_t row : {0, 4}) {
          std::vector<std::string> texts(400, "12");
          texts[position] = bad;
          CAPTURE(bad);
          CAPTURE(position);
          codec.signature.inputs[0].dtype = dtype;
          codec.signature.inputs[0].shape = row ? Shape{-1, -1} : Shape{-1};
          const Status status = codec.tfs("{\"instances\":" + join(texts, row, kStyles[0]) + "}");
          REQUIRE(status.code() == Code::kInvalidArgument);
        }
      }
    }
  }
}

TEST_CASE("rows of another length and elements out of range are refused") {
  Codec codec(signature(DType::kUint8, {-1, -1}, true));
  const std::vector<std::string> texts(300, "255");
  std::string body = "{\"instances\":" + join(texts, 3, kStyles[0]) + "}";
  REQUIRE(codec.tfs(body).ok());
  CHECK(codec.request.inputs[0].view.shape == Shape{100, 3});
  const std::size_t middle = body.find("[255", body.size() / 2);
  for (const char* row : {"[255,255],", "[255,255,255,255],", "[],", "[255,255,256],", "255,",
                          "[255,255,-1],", "[255,255,1.0],", "[[255,255,255]],"}) {
    CAPTURE(row);
    std::string changed = body;
    changed.insert(middle, row);
    CHECK(codec.tfs(changed).code() == Code::kInvalidArgument);
  }
}

}  // namespace
}  // namespace servolley::codec
