#pragma once

#include <cstddef>
#include <string_view>

namespace servolley::codec {

// What lies between the quotes of a JSON string.

// Passes bytes that need no look: neither quote nor backslash nor control nor beyond ASCII.
const char* skip_plain(const char* at, const char* end);
// Length of the escape sequence whose backslash is at `at`, 0 if malformed (a surrogate pair counts
// as one; a lone surrogate is malformed).
std::size_t escape_length(const char* at, const char* end);
// Unescapes text whose escape sequences are all well formed. Writes at most raw.size() bytes;
// returns how many. `out` may be where `raw` lies.
std::size_t unescape(std::string_view raw, char* out);

}  // namespace servolley::codec
