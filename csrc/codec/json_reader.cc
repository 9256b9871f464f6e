#include "codec/json_reader.h"

#include <array>
#include <cstring>

#include "codec/json_string.h"
#include "codec/utf8.h"

namespace servolley::codec {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }

}  // namespace

std::string_view json_kind_name(JsonKind kind) {
  constexpr std::array<std::string_view, 7> kNames = {
      "an object", "an array", "a string", "a number", "true or false", "null", "no JSON value"};
  return kNames[static_cast<std::size_t>(kind)];
}

bool JsonReader::fail(Status error) {
  if (error_.ok()) error_ = std::move(error);
  return false;
}

bool JsonReader::fail_syntax(std::string_view what) {
  if (!error_.ok()) return false;
  std::string text = "malformed JSON at byte " + std::to_string(at_ - begin_) + ": ";
  text += what;
  if (at_ == end_) text += " (the text ends here)";
  return fail(invalid_argument(std::move(text)));
}

JsonKind JsonReader::peek() {
  skip_space();
  if (at_ == end_) return JsonKind::kInvalid;
  switch (*at_) {
    case '{':
      return JsonKind::kObject;
    case '[':
      return JsonKind::kArray;
    case '"':
      return JsonKind::kString;
    case 't':
    case 'f':
      return JsonKind::kBool;
    case 'n':
      return JsonKind::kNull;
    case '-':
    case 'N':
    case 'I':
      return JsonKind::kNumber;
    default:
      return is_digit(*at_) ? JsonKind::kNumber : JsonKind::kInvalid;
  }
}

bool JsonReader::begin_document() {
  if (left() >= 3 && std::memcmp(at_, "\xEF\xBB\xBF", 3) == 0) {
    return fail_syntax("a byte order mark is not allowed");
  }
  skip_space();
  if (at_ == end_) return fail(invalid_argument("malformed JSON: the document is empty"));
  if (peek() == JsonKind::kInvalid) return fail_syntax("invalid value");
  return enter_object();
}

bool JsonReader::end_document() {
  skip_space();
  return at_ == end_ || fail_syntax("unexpected bytes after the document");
}

bool JsonReader::enter_object() {
  skip_space();
  if (at_ == end_ || *at_ != '{') return fail_syntax("expected an object");
  ++at_;
  return true;
}

bool JsonReader::enter_array() {
  skip_space();
  if (at_ == end_ || *at_ != '[') return fail_syntax("expected an array");
  ++at_;
  return true;
}

bool JsonReader::read_key_and_colon(std::string_view& key) {
  if (at_ == end_ || *at_ != '"') return fail_syntax("expected a string as a key");
  std::string_view raw;
  bool escaped = false;
  if (!scan_string(raw, escaped)) return false;
  key = raw;
  if (escaped) {
    key_scratch_.resize(raw.size());
    key_scratch_.resize(unescape(raw, key_scratch_.data()));
    key = key_scratch_;
    if (key.find('\0') != std::string_view::npos) return fail_syntax("a key that holds NUL");
  }
  skip_space();
  if (at_ == end_ || *at_ != ':') return fail_syntax("expected ':'");
  ++at_;
  return true;
}

bool JsonReader::next_member(bool& first, std::string_view& key) {
  if (failed()) return false;
  skip_space();
  if (at_ != end_ && *at_ == '}') {
    ++at_;
    return false;
  }
  if (!first) {
    if (at_ == end_ || *at_ != ',') return fail_syntax("expected ',' or '}'");
    ++at_;
    skip_space();
  }
  first = false;
  return read_key_and_colon(key);
}

bool JsonReader::next_element(bool& first) {
  if (failed()) return false;
  skip_space();
  if (at_ != end_ && *at_ == ']') {
    ++at_;
    return false;
  }
  if (!first) {
    if (at_ == end_ || *at_ != ',') return fail_syntax("expected ',' or ']'");
    ++at_;
    skip_space();
  }
  first = false;
  return at_ != end_ || fail_syntax("expected a value");
}

bool JsonReader::scan_string(std::string_view& raw, bool& escaped) {
  skip_space();
  if (at_ == end_ || *at_ != '"') return fail_syntax("expected a string");
  const char* const begin = ++at_;
  escaped = false;
  for (;;) {
    at_ = skip_plain(at_, end_);
    if (at_ == end_) return fail_syntax("a string without its closing quote");
    const char c = *at_;
    if (c == '"') {
      raw = {begin, static_cast<std::size_t>(at_ - begin)};
      ++at_;
      return true;
    }
    if (c == '\\') {
      const std::size_t length = escape_length(at_, end_);
      if (length == 0) return fail_syntax("an invalid escape sequence in a string");
      escaped = true;
      at_ += length;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      return fail_syntax("a control character in a string");
    } else {
      const std::size_t length = utf8_sequence(at_, end_);
      if (length == 0) return fail_syntax("invalid UTF-8 in a string");
      at_ += length;
    }
  }
}

bool JsonReader::read_string(std::string_view& out, std::string& scratch) {
  std::string_view raw;
  bool escaped = false;
  if (!scan_string(raw, escaped)) return false;
  out = raw;
  if (escaped) {
    scratch.resize(raw.size());
    scratch.resize(unescape(raw, scratch.data()));
    out = scratch;
  }
  return true;
}

bool JsonReader::literal(std::string_view word) {
  if (left() < word.size() || std::memcmp(at_, word.data(), word.size()) != 0) {
    return fail_syntax("invalid value");
  }
  at_ += word.size();
  return true;
}

bool JsonReader::read_bool(bool& out) {
  skip_space();
  if (at_ == end_ || (*at_ != 't' && *at_ != 'f')) return fail_syntax("expected true or false");
  out = *at_ == 't';
  return literal(out ? "true" : "false");
}

bool JsonReader::read_null() {
  skip_space();
  return literal("null");
}

bool JsonReader::read_integer(bool& negative, std::uint64_t& magnitude) {
  skip_space();
  negative = at_ != end_ && *at_ == '-';
  const char* p = at_ + negative;
  if (p == end_ || !is_digit(*p)) return fail_syntax("expected an integer");
  magnitude = 0;
  const bool leading_zero = *p == '0';
  for (; p != end_ && is_digit(*p); ++p) {
    if (__builtin_mul_overflow(magnitude, std::uint64_t{10}, &magnitude) ||
        __builtin_add_overflow(magnitude, static_cast<std::uint64_t>(*p - '0'), &magnitude)) {
      return fail_syntax("an integer beyond 64 bits");
    }
  }
  if (leading_zero && p - at_ - negative > 1) return fail_syntax("a number with a leading zero");
  if (p != end_ && (*p == '.' || *p == 'e' || *p == 'E')) {
    return fail_syntax("expected an integer, found a decimal number");
  }
  at_ = p;
  return true;
}

bool JsonReader::read_uint64(std::uint64_t& out) {
  bool negative = false;
  if (!read_integer(negative, out)) return false;
  return !(negative && out != 0) || fail_syntax("expected a number that is not negative");
}

bool JsonReader::scan_number() {
  const char* p = at_;
  if (p != end_ && *p == '-') ++p;
  if (p != end_ && (*p == 'N' || *p == 'I')) {
    const std::string_view rest(p, static_cast<std::size_t>(end_ - p));
    for (const std::string_view word : {"NaN", "Infinity", "Inf"}) {
      if (rest.starts_with(word)) {
        at_ = p + word.size();
        return true;
      }
    }
    return fail_syntax("invalid value");
  }
  const auto digits = [&] {
    const char* const first = p;
    while (p != end_ && is_digit(*p)) ++p;
    return p - first;
  };
  const char* const integer = p;
  const auto integer_digits = digits();
  if (integer_digits == 0) return fail_syntax("invalid value");
  if (integer_digits > 1 && *integer == '0') return fail_syntax("a number with a leading zero");
  if (p != end_ && *p == '.') {
    ++p;
    if (digits() == 0) return fail_syntax("a number without digits behind its point");
  }
  if (p != end_ && (*p == 'e' || *p == 'E')) {
    ++p;
    if (p != end_ && (*p == '+' || *p == '-')) ++p;
    if (digits() == 0) return fail_syntax("a number without digits in its exponent");
  }
  at_ = p;
  return true;
}

bool JsonReader::skip_value(unsigned depth) {
  // One bit per open level: whether it is an object. An explicit stack, so that hostile nesting
  // costs nothing.
  std::array<std::uint64_t, 2> objects{};
  static_assert(kMaxJsonDepth <= 128);
  unsigned level = 0;
  const auto in_object = [&] { return (objects[(level - 1) / 64] >> (level - 1) % 64 & 1) != 0; };
  std::string_view ignored;
  bool escaped = false;
  for (;;) {
    bool opened = false;
    switch (const JsonKind kind = peek()) {
      case JsonKind::kObject:
      case JsonKind::kArray: {
        if (depth + level >= kMaxJsonDepth) return fail_syntax("nested more than 100 levels deep");
        const std::uint64_t bit = std::uint64_t{1} << level % 64;
        objects[level / 64] =
            kind == JsonKind::kObject ? objects[level / 64] | bit : objects[level / 64] & ~bit;
        ++level;
        ++at_;
        opened = true;
        break;
      }
      case JsonKind::kString:
        if (!scan_string(ignored, escaped)) return false;
        break;
      case JsonKind::kNumber:
        if (!scan_number()) return false;
        break;
      case JsonKind::kBool:
        if (!literal(*at_ == 't' ? "true" : "false")) return false;
        break;
      case JsonKind::kNull:
        if (!literal("null")) return false;
        break;
      case JsonKind::kInvalid:
        return fail_syntax("expected a value");
    }
    // Closes what ends here, then goes on behind a comma.
    for (;;) {
      if (level == 0) return true;
      skip_space();
      if (at_ == end_) return fail_syntax("an object or array is not closed");
      const bool object = in_object();
      if (*at_ == (object ? '}' : ']')) {
        ++at_;
        --level;
        opened = false;
        continue;
      }
      if (!opened) {
        if (*at_ != ',') return fail_syntax(object ? "expected ',' or '}'" : "expected ',' or ']'");
        ++at_;
        skip_space();
      }
      if (object && !read_key_and_colon(ignored)) return false;
      break;
    }
  }
}

}  // namespace servolley::codec
