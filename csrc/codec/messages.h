#pragma once

#include <string>
#include <string_view>

namespace servolley::codec {

// Client text in a message is never longer than this.
inline constexpr std::size_t kMaxQuotedBytes = 100;

// 'text', cut behind a whole character when it is long. `text` is valid UTF-8.
inline std::string quoted(std::string_view text) {
  std::string out = "'";
  if (text.size() <= kMaxQuotedBytes) {
    out += text;
  } else {
    std::size_t cut = kMaxQuotedBytes;
    while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0u) == 0x80u) --cut;
    out += text.substr(0, cut);
    out += "...";
  }
  return out += '\'';
}

// Joins the pieces of a message.
template <class... Pieces>
std::string message(const Pieces&... pieces) {
  std::string out;
  ((out += pieces), ...);
  return out;
}

}  // namespace servolley::codec
