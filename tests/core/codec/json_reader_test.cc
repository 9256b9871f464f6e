#include "codec/json_reader.h"

#include <doctest/doctest.h>

#include <string>

#include "codec/json_write.h"

namespace servolley::codec {
namespace {

bool skips(const std::string& text, unsigned depth = 0) {
  JsonReader reader(text);
  if (!reader.skip_value(depth)) {
    CHECK(!reader.take_error().ok());
    return false;
  }
  return reader.end_document();
}

std::string repeat(std::string_view piece, std::size_t times) {
  std::string out;
  for (std::size_t i = 0; i < times; ++i) out += piece;
  return out;
}

TEST_CASE("every kind of value is passed") {
  for (const char* text :
       {"1", "-0.5e+10", "true", "false", "null", "\"\"", "\"a\\n\\u00e9\\ud83d\\ude00\"", "[]",
        "{}", "[1,[2,{}],\"x\"]", "{\"a\":{\"b\":[{}]},\"c\":1}", " [ 1 , 2 ] ", "NaN",
        "[-Infinity,Inf]", "\t\r\n{ \"a\" : [ ] }\n"}) {
    CAPTURE(text);
    CHECK(skips(text));
  }
}

TEST_CASE("malformed values are refused") {
  for (const char* text : {"",
                           " ",
                           "]",
                           "}",
                           ",",
                           "[1,]",
                           "[,1]",
                           "[1 2]",
                           "[1",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{,}",
                           "{1:2}",
                           "{\"a\" 1}",
                           "{\"a\":1",
                           "[1}",
                           "{\"a\":1]",
                           "tru",
                           "nul",
                           "falsee",
                           "\"abc",
                           "\"\\x\"",
                           "\"\\u12g4\"",
                           "\"\\u12\"",
                           "\"\\ud800\"",
                           "\"\\udc00\"",
                           "\"\\ud800\\u0041\"",
                           "\"\x01\"",
                           "\"\xff\"",
                           "\"\xc0\x80\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf4\x90\x80\x80\"",
                           "\"\xe2\x82\"",
                           "1 1",
                           "'a'",
                           "\\",
                           "[1]x",
                           "-",
                           "--1",
                           "01"}) {
    CAPTURE(text);
    CHECK(!skips(text));
  }
}

TEST_CASE("nesting is capped at 100 levels, whatever they are") {
  CHECK(skips(repeat("[", 100) + repeat("]", 100)));
  CHECK(!skips(repeat("[", 101) + repeat("]", 101)));
  CHECK(skips(repeat("{\"a\":", 100) + "1" + repeat("}", 100)));
  CHECK(!skips(repeat("{\"a\":", 101) + "1" + repeat("}", 101)));
  CHECK(!skips(repeat("[", 99) + repeat("]", 99), 2));
  CHECK(skips(repeat("[{\"a\":", 50) + "1" + repeat("}]", 50)));
  CHECK(!skips(repeat("[", 500'000)));
  CHECK(!skips(repeat("{\"a\":[", 250'000)));
}

TEST_CASE("strings come unescaped, without a copy where there is nothing to unescape") {
  const std::string plain = "\"h\xc3\xa9llo, a string of more than eight bytes\"";
  JsonReader reader(plain);
  std::string_view out;
  std::string scratch;
  REQUIRE(reader.read_string(out, scratch));
  CHECK(out.data() == plain.data() + 1);
  CHECK(out == std::string_view(plain).substr(1, plain.size() - 2));

  const std::string escaped = R"("q\"s\\l\/b\bf\fn\nr\rt\t \u0041\u00e9\u20ac\ud83d\ude00\u0000!")";
  JsonReader other(escaped);
  REQUIRE(other.read_string(out, scratch));
  CHECK(out ==
        std::string_view("q\"s\\l/b\bf\fn\nr\rt\t A\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\0!", 29));
}

TEST_CASE("a special character is found at every offset") {
  for (std::size_t at = 0; at < 20; ++at) {
    for (const std::string& bad :
         {std::string("\x1f"), std::string(1, '\0'), std::string("\x80")}) {
      CHECK(!skips('"' + std::string(at, 'a') + bad + std::string(20, 'b') + '"'));
    }
    CHECK(skips('"' + std::string(at, 'a') + "\xc3\xa9" + std::string(20, 'b') + '"'));
    CHECK(skips('"' + std::string(at, '\x7f') + "\\\"" + std::string(20, 'b') + '"'));
  }
}

TEST_CASE("a document begins with an object and has nothing behind it") {
  const auto error = [](const std::string& text) {
    JsonReader reader(text);
    bool first = true;
    std::string_view key;
    if (reader.begin_document()) {
      while (reader.next_member(first, key) && reader.skip_value(1)) {
      }
      if (!reader.failed()) (void)reader.end_document();
    }
    return reader.failed() ? reader.take_error().message() : std::string();
  };
  CHECK(error("{}").empty());
  CHECK(error(" {\"a\":1} \n").empty());
  CHECK(error("").find("document is empty") != std::string::npos);
  CHECK(error("\xEF\xBB\xBF{}").find("byte order mark") != std::string::npos);
  CHECK(error("{} x").find("unexpected bytes after the document") != std::string::npos);
  CHECK(error("[]").find("expected an object") != std::string::npos);
  CHECK(error("instances = [1]").find("invalid value") != std::string::npos);
  CHECK(error("{\"a\\u0000\":1}").find("NUL") != std::string::npos);
  CHECK(error("{\"a\":1").find("the text ends here") != std::string::npos);
}

TEST_CASE("what is written escaped reads back the same") {
  std::string text;
  for (int c = 0; c < 128; ++c) text += static_cast<char>(c);
  text += "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80";
  std::string json(escaped_size(text) + 2, ' ');
  CHECK(put_quoted(json.data(), text) == json.data() + json.size());
  JsonReader reader(json);
  std::string_view out;
  std::string scratch;
  REQUIRE(reader.read_string(out, scratch));
  CHECK(out == text);
  CHECK(reader.end_document());
}

TEST_CASE("bytes that are not UTF-8 are replaced") {
  const std::string_view text = "a\xff\xc3(\xe2\x82";
  std::string json(escaped_size(text), ' ');
  bool valid = true;
  CHECK(put_escaped(json.data(), text, valid) == json.data() + json.size());
  CHECK(!valid);
  CHECK(json == "a\xEF\xBF\xBD\xEF\xBF\xBD(\xEF\xBF\xBD\xEF\xBF\xBD");
}

}  // namespace
}  // namespace servolley::codec
