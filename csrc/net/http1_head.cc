#include "net/http1_head.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>

#define BOOST_BEAST_HEADER_ONLY
#include <boost/beast/http/basic_parser.hpp>

namespace servolley::net {
namespace {

namespace beast = boost::beast;
namespace http = boost::beast::http;

// What a request line has besides its target, with room for any method there is.
constexpr std::size_t kRequestLineFrame = 64;

// The first control character (below 0x20, or DEL) at or behind `i`; `text.size()` if there is
// none.
std::size_t find_control(std::string_view text, std::size_t i) {
  if constexpr (std::endian::native == std::endian::little) {
    constexpr std::uint64_t kOnes = 0x0101010101010101;
    constexpr std::uint64_t kHighs = kOnes * 0x80;
    while (text.size() - i >= 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, text.data() + i, 8);
      // A borrow may mark bytes above a hit falsely, never below one, and the lowest mark counts.
      const std::uint64_t low = (word - kOnes * 0x20) & ~word;
      const std::uint64_t del = word ^ (kOnes * 0x7f);
      const std::uint64_t hits = (low | ((del - kOnes) & ~del)) & kHighs;
      if (hits) return i + static_cast<std::size_t>(std::countr_zero(hits)) / 8;
      i += 8;
    }
  }
  for (; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c < 0x20 || c == 0x7f) break;
  }
  return i;
}

bool equals_ignoring_case(std::string_view text, std::string_view lower) {
  return text.size() == lower.size() &&
         std::equal(text.begin(), text.end(), lower.begin(), [](char a, char b) {
           return (a >= 'A' && a <= 'Z' ? static_cast<char>(a | 0x20) : a) == b;
         });
}

bool is_digits(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// uri-host [":" port]: what cannot stand there is what confuses whoever splits it.
bool is_host(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return c > 0x20 && c < 0x7f && c != '/' && c != '\\' && c != '?' && c != '#' && c != '@' &&
           c != '"' && c != '<' && c != '>';
  });
}

void to_lower(char* text, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    text[i] = static_cast<char>(c + (static_cast<unsigned>(c - 'A') < 26U ? 0x20U : 0U));
  }
}

std::string_view describe(const beast::error_code& error) {
  switch (static_cast<http::error>(error.value())) {
    case http::error::bad_method:
      return "malformed request: bad method";
    case http::error::bad_target:
      return "malformed request: bad request target";
    case http::error::bad_version:
      return "malformed request: unsupported protocol version";
    case http::error::bad_field:
      return "malformed request: bad header name";
    case http::error::bad_value:
      return "malformed request: bad header value";
    case http::error::bad_content_length:
      return "malformed request: bad Content-Length";
    case http::error::bad_transfer_encoding:
      return "malformed request: bad Transfer-Encoding";
    default:
      return "malformed request";
  }
}

// Boost.Beast parses; this class collects, and refuses what Beast lets pass.
class HeadParser final : public http::basic_parser<true> {
 public:
  HeadParser(std::span<char> bytes, const Http1Limits& limits, HeaderRoom& room)
      : bytes_(bytes),
        limits_(limits),
        headers_(reinterpret_cast<Header*>(room.bytes)),
        most_(std::min(limits.header_count, kHeaderCountMax)) {
    header_limit(static_cast<std::uint32_t>(bytes.size() + 1));
    body_limit(boost::none);  // ours is checked by the connection
    skip(true);               // the head only
  }

  HttpFailure run(ParsedHead& parsed) {
    beast::error_code error;
    const std::size_t used = put({bytes_.data(), bytes_.size()}, error);
    if (failure_) return failure_;
    if (error) return {400, describe(error)};
    if (used != bytes_.size() || !is_done()) return {400, "malformed request"};
    // Beast lets 1.0 and 1.1 pass. The older one, which proxies speak that were not told otherwise,
    // gets one call a connection.
    const bool old = version_ == 10;
    if (hosts_ != 1 && !(old && hosts_ == 0)) return {400, "exactly one Host header is required"};
    if (old && chunked()) return {400, "Transfer-Encoding is of HTTP/1.1"};
    parsed.head = {.method = method_,
                   .target = target_,
                   .headers = {std::launder(headers_), count_},
                   .content_length = {},
                   .chunked = chunked()};
    if (const auto length = content_length()) parsed.head.content_length = *length;
    parsed.close = old || !keep_alive();
    parsed.expects_continue = expects_continue_ && !old;
    return {};
  }

 private:
  void fail(int status, std::string_view message, beast::error_code& error) {
    failure_ = {status, message};
    error = http::error::bad_value;  // stops the parser
  }

  void on_request_impl(http::verb, beast::string_view method, beast::string_view target,
                       int version, beast::error_code& error) override {
    method_ = {method.data(), method.size()};
    target_ = {target.data(), target.size()};
    version_ = version;
    if (target_.size() > limits_.target_bytes) {
      return fail(414, "the request target is too long", error);
    }
    if (std::any_of(target_.begin(), target_.end(), [](char c) { return (c & 0x80) != 0; })) {
      return fail(400, "malformed request: the request target is not ASCII", error);
    }
    const bool origin_form = target_.front() == '/';
    const bool absolute_form = target_.starts_with("http://") || target_.starts_with("https://");
    if (method_ == "CONNECT" || !(origin_form || absolute_form)) {
      return fail(400, "malformed request: the request target is not a path", error);
    }
  }

  void on_field_impl(http::field field, beast::string_view beast_name,
                     beast::string_view beast_value, beast::error_code& error) override {
    const std::string_view name(beast_name.data(), beast_name.size());
    const std::string_view value(beast_value.data(), beast_value.size());
    if (count_ == most_) return fail(431, "too many headers", error);
    switch (field) {
      case http::field::content_length:
        // Beast takes lists and repetitions of one value.
        if (std::exchange(seen_length_, true) || !is_digits(value)) {
          return fail(400, "malformed request: bad Content-Length", error);
        }
        break;
      case http::field::transfer_encoding:
        // Beast ignores codings other than a final "chunked".
        if (!equals_ignoring_case(value, "chunked")) {
          return fail(400, "Transfer-Encoding other than chunked is not supported", error);
        }
        break;
      case http::field::host:
        ++hosts_;
        if (!is_host(value)) return fail(400, "malformed request: bad Host", error);
        break;
      case http::field::expect:
        if (!equals_ignoring_case(value, "100-continue")) {
          return fail(417, "Expect other than 100-continue is not supported", error);
        }
        expects_continue_ = true;
        break;
      default:
        break;
    }
    to_lower(bytes_.data() + (name.data() - bytes_.data()), name.size());
    std::construct_at(headers_ + count_++, Header{name, value});
  }

  void on_response_impl(int, beast::string_view, int, beast::error_code&) override {}
  void on_header_impl(beast::error_code&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, beast::error_code&) override {}
  std::size_t on_body_impl(beast::string_view, beast::error_code&) override { return 0; }
  void on_chunk_header_impl(std::uint64_t, beast::string_view, beast::error_code&) override {}
  std::size_t on_chunk_body_impl(std::uint64_t, beast::string_view, beast::error_code&) override {
    return 0;
  }
  void on_finish_impl(beast::error_code&) override {}

  std::span<char> bytes_;
  const Http1Limits& limits_;
  Header* headers_;
  std::size_t most_;
  std::size_t count_ = 0;
  std::string_view method_;
  std::string_view target_;
  int version_ = 0;
  int hosts_ = 0;
  bool seen_length_ = false;
  bool expects_continue_ = false;
  HttpFailure failure_;
};

}  // namespace

HeadScanner::Outcome HeadScanner::bad(int status, std::string_view message) {
  failure_ = {status, message};
  return Outcome::kBad;
}

HeadScanner::Outcome HeadScanner::scan(std::string_view bytes, const Http1Limits& limits) {
  const std::size_t header_count = std::min(limits.header_count, kHeaderCountMax);
  std::size_t i = position_;
  for (;;) {
    if (i == line_start_ && i < bytes.size() && (bytes[i] == ' ' || bytes[i] == '\t')) {
      return bad(400, "malformed request: a line starts with white space");
    }
    i = find_control(bytes, i);
    // Before anything else about this byte, so that the answer does not depend on how the head
    // was cut into reads.
    if (lines_ == 0 && i > limits.target_bytes + kRequestLineFrame) {
      return bad(414, "the request line is too long");
    }
    if (i > limits.header_bytes) return bad(431, "the request head is too large");
    if (i == bytes.size()) break;
    if (bytes[i] == '\t') {
      ++i;
      continue;
    }
    if (bytes[i] != '\r') {
      return bad(400, "malformed request: a control character or a bare line feed in the head");
    }
    if (i + 1 == bytes.size()) break;
    if (bytes[i + 1] != '\n') return bad(400, "malformed request: a bare carriage return");
    const bool empty = i == line_start_;
    i += 2;
    if (empty) {
      if (lines_ == 0) return bad(400, "malformed request: empty request line");
      if (i > limits.header_bytes) return bad(431, "the request head is too large");
      position_ = i;
      return Outcome::kEnd;
    }
    if (lines_++ > header_count) return bad(431, "too many headers");
    line_start_ = i;
  }
  position_ = i;
  return Outcome::kMore;
}

HttpFailure parse_head(std::span<char> bytes, const Http1Limits& limits, HeaderRoom& room,
                       ParsedHead& parsed) {
  return HeadParser(bytes, limits, room).run(parsed);
}

}  // namespace servolley::net
