#include "net/http2_status.h"

#include <array>

namespace servolley::net {
namespace {

// Clients take 8 KB of headers at least.
constexpr std::size_t kMessageBytesMax = 4096;

bool is_plain(unsigned char c) { return c >= 0x20 && c <= 0x7e && c != '%'; }

}  // namespace

std::string_view grpc_status_text(Code code) {
  static constexpr std::array<std::string_view, 17> kTexts = {
      "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"};
  return kTexts[static_cast<std::size_t>(grpc_code(code))];
}

void append_grpc_message(std::string_view message, std::string& out) {
  static constexpr std::string_view kHex = "0123456789ABCDEF";
  std::size_t whole = out.size();  // up to here, whole characters
  const std::size_t end = out.size() + kMessageBytesMax;
  for (const char signed_c : message) {
    const auto c = static_cast<unsigned char>(signed_c);
    if ((c & 0xc0) != 0x80) whole = out.size();
    const bool plain = is_plain(c);
    if (out.size() + (plain ? 1 : 3) > end) return out.resize(whole);
    if (plain) {
      out.push_back(signed_c);
    } else {
      out.push_back('%');
      out.push_back(kHex[c >> 4]);
      out.push_back(kHex[c & 15]);
    }
  }
}

}  // namespace servolley::net
