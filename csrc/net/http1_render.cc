#include "net/http1_render.h"

namespace servolley::net {
namespace {

constexpr std::string_view kContentType = "Content-Type: ";
constexpr std::string_view kContentLength = "Content-Length: ";
constexpr std::string_view kJsonLength = "Inference-Header-Content-Length: ";
constexpr std::string_view kContentEncoding = "Content-Encoding: ";
constexpr std::string_view kClose = "Connection: close\r\n";
constexpr std::string_view kLineEnd = "\r\n";

bool continues(std::string_view text, std::size_t i) {
  return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80;
}

// Length of the valid UTF-8 sequence at `i` that starts with a byte of 0x80 or more; 0 if there is
// none (overlong forms, surrogates and what lies above U+10FFFF are not valid).
std::size_t utf8_length(std::string_view text, std::size_t i) {
  const auto first = static_cast<unsigned char>(text[i]);
  const auto second =
      i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : static_cast<unsigned char>(0);
  if (!continues(text, i + 1)) return 0;
  if (first >= 0xc2 && first <= 0xdf) return 2;
  if (!continues(text, i + 2)) return 0;
  if (first == 0xe0) return second >= 0xa0 ? 3 : 0;
  if (first == 0xed) return second < 0xa0 ? 3 : 0;
  if (first >= 0xe1 && first <= 0xef) return 3;
  if (!continues(text, i + 3)) return 0;
  if (first == 0xf0) return second >= 0x90 ? 4 : 0;
  if (first >= 0xf1 && first <= 0xf3) return 4;
  return first == 0xf4 && second < 0x90 ? 4 : 0;
}

}  // namespace

std::string_view known_status_line(int status) {
  switch (status) {
    case 200:
      return "HTTP/1.1 200 OK\r\n";
    case 201:
      return "HTTP/1.1 201 Created\r\n";
    case 202:
      return "HTTP/1.1 202 Accepted\r\n";
    case 204:
      return "HTTP/1.1 204 No Content\r\n";
    case 301:
      return "HTTP/1.1 301 Moved Permanently\r\n";
    case 302:
      return "HTTP/1.1 302 Found\r\n";
    case 304:
      return "HTTP/1.1 304 Not Modified\r\n";
    case 400:
      return "HTTP/1.1 400 Bad Request\r\n";
    case 401:
      return "HTTP/1.1 401 Unauthorized\r\n";
    case 403:
      return "HTTP/1.1 403 Forbidden\r\n";
    case 404:
      return "HTTP/1.1 404 Not Found\r\n";
    case 405:
      return "HTTP/1.1 405 Method Not Allowed\r\n";
    case 406:
      return "HTTP/1.1 406 Not Acceptable\r\n";
    case 408:
      return "HTTP/1.1 408 Request Timeout\r\n";
    case 409:
      return "HTTP/1.1 409 Conflict\r\n";
    case 411:
      return "HTTP/1.1 411 Length Required\r\n";
    case 412:
      return "HTTP/1.1 412 Precondition Failed\r\n";
    case 413:
      return "HTTP/1.1 413 Content Too Large\r\n";
    case 414:
      return "HTTP/1.1 414 URI Too Long\r\n";
    case 415:
      return "HTTP/1.1 415 Unsupported Media Type\r\n";
    case 417:
      return "HTTP/1.1 417 Expectation Failed\r\n";
    case 422:
      return "HTTP/1.1 422 Unprocessable Content\r\n";
    case 429:
      return "HTTP/1.1 429 Too Many Requests\r\n";
    case 431:
      return "HTTP/1.1 431 Request Header Fields Too Large\r\n";
    case 499:
      return "HTTP/1.1 499 Client Closed Request\r\n";
    case 500:
      return "HTTP/1.1 500 Internal Server Error\r\n";
    case 501:
      return "HTTP/1.1 501 Not Implemented\r\n";
    case 502:
      return "HTTP/1.1 502 Bad Gateway\r\n";
    case 503:
      return "HTTP/1.1 503 Service Unavailable\r\n";
    case 504:
      return "HTTP/1.1 504 Gateway Timeout\r\n";
    default:
      return {};
  }
}

HeadPieces::HeadPieces(const ResponseHead& head, std::size_t body_bytes, bool close) {
  // A final answer has three digits from 2 to 5; anything else would break the framing.
  const int status = head.status >= 200 && head.status <= 599 ? head.status : 500;
  std::string_view status_line = known_status_line(status);
  if (status_line.empty()) {
    std::memcpy(status_line_.data(), "HTTP/1.1 ", 9);
    std::to_chars(status_line_.data() + 9, status_line_.data() + 12, status);
    std::memcpy(status_line_.data() + 12, " \r\n", 3);
    status_line = {status_line_.data(), 15};
  }
  add(status_line);
  if (!head.content_type.empty()) {
    add(kContentType);
    add(head.content_type);
    add(kLineEnd);
  }
  if (status_has_body(status)) {
    add(kContentLength);
    add_number(body_bytes);
  }
  if (head.inference_json_length) {
    add(kJsonLength);
    add_number(head.inference_json_length);
  }
  if (!head.content_encoding.empty()) {
    add(kContentEncoding);
    add(head.content_encoding);
    add(kLineEnd);
  }
  if (close) add(kClose);
  add(head.extra);
  add(kLineEnd);
}

void HeadPieces::add_number(std::size_t number) {
  char* const begin = digits_.data() + digits_used_;
  char* end = std::to_chars(begin, digits_.data() + digits_.size(), number).ptr;
  *end++ = '\r';
  *end++ = '\n';
  digits_used_ += static_cast<std::size_t>(end - begin);
  add({begin, static_cast<std::size_t>(end - begin)});
}

std::size_t HeadPieces::write(char* out) const {
  for (std::size_t i = 0; i < count_; ++i) {
    std::memcpy(out, parts_[i].data(), parts_[i].size());
    out += parts_[i].size();
  }
  return size_;
}

std::string error_json(std::string_view message) {
  constexpr std::string_view kHex = "0123456789abcdef";
  std::string json = "{\"error\":\"";
  for (std::size_t i = 0; i < message.size();) {
    const auto c = static_cast<unsigned char>(message[i]);
    if (c >= 0x80) {
      const std::size_t length = utf8_length(message, i);
      json += length ? message.substr(i, length) : std::string_view("\\ufffd");
      i += length ? length : 1;
      continue;
    }
    if (c == '"' || c == '\\') {
      json += '\\';
      json += message[i];
    } else if (c < 0x20 || c == 0x7f) {
      json += "\\u00";
      json += kHex[c >> 4];
      json += kHex[c & 15];
    } else {
      json += message[i];
    }
    ++i;
  }
  json += "\"}";
  return json;
}

}  // namespace servolley::net
