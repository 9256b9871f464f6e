#pragma once

// The text of answers.

#include <array>
#include <charconv>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>

#include "net/http1.h"

namespace servolley::net {

// False for the statuses whose answers end with their head (RFC 9110 section 6.4.1).
constexpr bool status_has_body(int status) { return status != 204 && status != 304; }

// "HTTP/1.1 200 OK\r\n" for the statuses that a server like this one gives; empty for others.
std::string_view known_status_line(int status);

// A response head, measured before it is written, so that it is written in one place at once.
class HeadPieces {
 public:
  HeadPieces(const ResponseHead& head, std::size_t body_bytes, bool close);
  std::size_t size() const { return size_; }
  // Writes size() bytes; returns how many.
  std::size_t write(char* out) const;

 private:
  void add(std::string_view text) {
    if (text.empty()) return;
    parts_[count_++] = text;
    size_ += text.size();
  }
  void add_number(std::size_t number);

  std::array<std::string_view, 16> parts_;
  std::size_t count_ = 0;
  std::size_t size_ = 0;
  std::array<char, 44> digits_;  // two 64-bit numbers
  std::size_t digits_used_ = 0;
  std::array<char, 16> status_line_;  // of an unknown status
};

// {"error":"..."}: valid JSON whatever bytes the message has.
std::string error_json(std::string_view message);

}  // namespace servolley::net
