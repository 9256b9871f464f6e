#include "net/http1_chunks.h"

#include <algorithm>
#include <limits>

namespace servolley::net {
namespace {

namespace http = boost::beast::http;

// The line of a chunk: its size and its extensions, which nobody sends.
constexpr std::size_t kChunkLineBytes = 256;
// The last chunk with its trailers.
constexpr std::size_t kTrailerBytes = 8 << 10;

std::size_t saturating_sum(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t most = std::numeric_limits<std::size_t>::max();
  return static_cast<std::size_t>(a > most - b ? most : a + b);
}

}  // namespace

ChunkDecoder::ChunkDecoder(Pool& pool, std::uint64_t limit_bytes, std::size_t align_at,
                           const Http1Limits& limits)
    : body_(pool, saturating_sum(limit_bytes, 64)),
      offset_((64 - align_at % 64) % 64),
      chunks_left_(limits.chunks) {
  body_limit(limit_bytes);
  // The real head was parsed by somebody else; this one brings the parser to the same place.
  constexpr std::string_view kHead = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
  error_code error;
  put({kHead.data(), kHead.size()}, error);
}

std::size_t ChunkDecoder::feed(std::string_view bytes) {
  std::size_t used = 0;
  while (!failure_ && !done() && used < bytes.size()) {
    const std::string_view rest = bytes.substr(used);
    const bool header = chunk_left_ == 0;
    // No chunk header is shorter with what must follow it ("0 CRLF CRLF"), and Beast's parser
    // insists on that much when it is called again inside one.
    if (header && rest.size() < 5) break;
    error_code error;
    const std::size_t step = put({rest.data(), rest.size()}, error);
    if (header && !check_line(error == http::error::need_more ? rest : rest.substr(0, step))) break;
    if (error == http::error::need_more) break;
    if (error == http::error::body_limit) {
      fail(413, "the request body is larger than allowed");
    } else if (error) {
      fail(400, "malformed request: bad chunk");
    }
    used += step;
  }
  return used;
}

// `line`: a chunk header, or the last chunk with its trailers, or the beginning of one of them.
bool ChunkDecoder::check_line(std::string_view line) {
  // It may start with the line end of the chunk before.
  const std::size_t begin = line.starts_with("\r\n") ? 2 : 0;
  const std::size_t end = std::min(line.find("\r\n", begin), line.size());
  if (end > kChunkLineBytes) {
    fail(400, "malformed request: a chunk header is too long");
  } else if (line.substr(0, end).find('"') != line.npos) {
    // Beast looks for the closing quote behind the line's end, and lets line feeds stand in it.
    fail(400, "malformed request: a quoted string in a chunk extension");
  } else if (line.size() > kTrailerBytes) {
    fail(431, "the trailers are too large");
  } else if (line.find("\n ") != line.npos || line.find("\n\t") != line.npos) {
    fail(400, "malformed request: a trailer line starts with white space");
  }
  return !failure_;
}

void ChunkDecoder::on_chunk_header_impl(std::uint64_t size, string_view, error_code& error) {
  if (size != 0 && chunks_left_-- == 0) {
    fail(400, "too many chunks");
    error = http::error::bad_chunk;
  }
  chunk_left_ = size;
}

std::size_t ChunkDecoder::on_chunk_body_impl(std::uint64_t remain, string_view data,
                                             error_code& error) {
  store(data);
  if (failure_) error = http::error::bad_chunk;
  chunk_left_ = remain - data.size();
  return data.size();
}

void ChunkDecoder::store(string_view data) {
  Status status;
  if (body_.size() == 0) {
    status = body_.reserve(offset_ + data.size());
    if (status.ok()) body_.advance(offset_);
  }
  if (status.ok()) status = body_.append(data.data(), data.size());
  if (!status.ok()) fail(503, "out of memory for request bodies");
}

}  // namespace servolley::net
