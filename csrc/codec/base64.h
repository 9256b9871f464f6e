#pragma once

#include <cstddef>
#include <optional>
#include <string_view>

namespace servolley::codec {

// RFC 4648 section 4, the standard alphabet.

inline constexpr std::size_t base64_size(std::size_t bytes) { return (bytes + 2) / 3 * 4; }
// Writes base64_size(data.size()) characters; returns behind them.
char* put_base64(char* at, std::string_view data);

// Most bytes that `characters` can stand for.
inline constexpr std::size_t base64_bytes(std::size_t characters) { return characters / 4 * 3 + 3; }
// Decodes into `out` (room for base64_bytes(text.size()); may be where `text` lies). Padding may be
// missing but not wrong. Nothing if there is any other character.
std::optional<std::size_t> decode_base64(std::string_view text, char* out);

}  // namespace servolley::codec
