#pragma once

#include <span>
#include <string_view>

#include "base/status.h"
#include "memory/buffer.h"
#include "memory/payload.h"
#include "memory/pool.h"

namespace servolley::codec {

enum class Coding : std::uint8_t { kIdentity, kGzip, kDeflate };

// Reads Content-Encoding. UNSUPPORTED_MEDIA for anything but identity, gzip (x-gzip) and deflate,
// and for more than one coding.
Result<Coding> parse_content_encoding(std::string_view value);

// The coding of an answer: gzip or deflate only when the client names exactly one of them (a client
// that lists "gzip, deflate, br" sends its library's default and mostly cannot decode an inference
// answer).
Coding choose_response_coding(std::string_view accept_encoding);

struct Bytes {
  Buffer owner;
  std::size_t size = 0;
};

// Inflates a whole body into pooled memory; the body starts at owner.data(). Also accepts several
// gzip members in a row and raw deflate data. INVALID_ARGUMENT if it cannot be decoded, TOO_LARGE
// above `limit_bytes` (checked while inflating, never after).
Result<Bytes> inflate(Coding coding, std::span<const std::byte> body, std::size_t limit_bytes,
                      Pool& pool);

// zlib's level where nothing else is asked for.
inline constexpr int kDefaultLevel = 6;

// Deflates a payload into one buffer; `level` is zlib's, 1 to 9.
Result<Bytes> deflate(Coding coding, const Payload& payload, Pool& pool, int level = kDefaultLevel);

}  // namespace servolley::codec
