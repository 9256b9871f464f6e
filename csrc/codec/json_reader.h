#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/status.h"

namespace servolley::codec {

// Deepest nesting of a JSON document.
inline constexpr unsigned kMaxJsonDepth = 100;

// What a value is, by its first character.
enum class JsonKind : std::uint8_t { kObject, kArray, kString, kNumber, kBool, kNull, kInvalid };
std::string_view json_kind_name(JsonKind kind);

// A strict pull reader over one JSON text (RFC 8259 plus the bare tokens NaN, Infinity, Inf and
// their negatives where a number may stand). Reads in place, validates every byte that it passes,
// never recurses. The functions return false after the first error, which take_error() then holds;
// nothing is read any more.
class JsonReader {
 public:
  explicit JsonReader(std::string_view text)
      : begin_(text.data()), at_(text.data()), end_(text.data() + text.size()) {}

  const char* begin() const { return begin_; }
  const char* at() const { return at_; }
  const char* end() const { return end_; }
  void move_to(const char* at) { at_ = at; }
  std::size_t left() const { return static_cast<std::size_t>(end_ - at_); }
  bool failed() const { return !error_.ok(); }
  Status take_error() { return std::move(error_); }

  // Records an error; the first one stays. Always false.
  bool fail(Status error);
  // Replaces the recorded error by one that says more. Always false.
  bool fail_instead(Status error) {
    error_ = std::move(error);
    return false;
  }
  // "malformed JSON at byte N: <what>".
  bool fail_syntax(std::string_view what);

  void skip_space() {
    while (at_ != end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\r' || *at_ == '\t')) ++at_;
  }
  // Kind of the next value; kInvalid at the end of the text and for anything that starts no value.
  JsonKind peek();

  // Refuses an empty text and a byte order mark, then enters the top-level object.
  bool begin_document();
  // Only white space may follow.
  bool end_document();

  // Enters an object or array: the next value must be one. Then call next_member or next_element
  // until it returns false, which means the end or an error (see failed()).
  bool enter_object();
  bool enter_array();
  // `key` is valid until the next call. A key that holds NUL is refused.
  bool next_member(bool& first, std::string_view& key);
  bool next_element(bool& first);

  // Reads a string. Without escapes `out` lies in the text, else in `scratch`.
  bool read_string(std::string_view& out, std::string& scratch);
  // Finds the raw text between the quotes of the string at the cursor, validated but not unescaped
  // (see unescape in json_string.h).
  bool scan_string(std::string_view& raw, bool& escaped);
  bool read_bool(bool& out);
  bool read_null();
  // Reads a JSON number that must be an integer: no fraction, no exponent.
  bool read_integer(bool& negative, std::uint64_t& magnitude);
  bool read_uint64(std::uint64_t& out);
  // Passes a number or one of the bare tokens.
  bool scan_number();
  // Passes any value. `depth` is the nesting around it; everything deeper than kMaxJsonDepth is an
  // error.
  bool skip_value(unsigned depth);

 private:
  bool literal(std::string_view word);
  bool read_key_and_colon(std::string_view& key);

  const char* begin_;
  const char* at_;
  const char* end_;
  std::string key_scratch_;
  Status error_;
};

}  // namespace servolley::codec
