#pragma once

// The head of a request: finding its end in bytes that arrive in any pieces, and parsing it.

#include <cstddef>
#include <span>
#include <string_view>

#include "net/http1.h"

namespace servolley::net {

// Why a connection is failed: an HTTP status and a constant text. Status 0: no failure.
struct HttpFailure {
  int status = 0;
  std::string_view message;
  explicit operator bool() const { return status != 0; }
};

// Looks for the empty line that ends a head. Every byte is looked at once, however the head
// arrives. The parser behind it tolerates what is ambiguous on the wire (folded lines) and sees
// only whole heads; so line endings, control characters and the size limits are checked here, at
// the first byte that breaks them.
class HeadScanner {
 public:
  enum class Outcome { kMore, kEnd, kBad };

  // `bytes` start with the head's first byte at every call for the same head.
  Outcome scan(std::string_view bytes, const Http1Limits& limits);
  // After kEnd: bytes of the head, the empty line included.
  std::size_t end() const { return position_; }
  // After kBad.
  const HttpFailure& failure() const { return failure_; }
  // Nothing of a head has been seen.
  bool fresh() const { return position_ == 0; }
  void reset() { *this = {}; }

 private:
  Outcome bad(int status, std::string_view message);

  std::size_t position_ = 0;    // everything before it was looked at
  std::size_t line_start_ = 0;  // of the line that position_ lies in
  std::size_t lines_ = 0;       // complete lines
  HttpFailure failure_;
};

// Raw room for headers; lies on the stack of whoever parses, so it is not initialised.
struct HeaderRoom {
  alignas(Header) std::byte bytes[kHeaderCountMax * sizeof(Header)];
};

struct ParsedHead {
  RequestHead head;  // views of the parsed bytes and of the HeaderRoom
  bool close = false;
  bool expects_continue = false;
};

// Parses a whole head as HeadScanner found it. Header names are put into lower case in place.
HttpFailure parse_head(std::span<char> bytes, const Http1Limits& limits, HeaderRoom& room,
                       ParsedHead& parsed);

}  // namespace servolley::net
