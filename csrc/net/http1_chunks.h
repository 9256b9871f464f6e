#pragma once

// A chunked body on its way into one pooled buffer.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#define BOOST_BEAST_HEADER_ONLY
#include <boost/beast/http/basic_parser.hpp>

#include "memory/buffer_writer.h"
#include "net/http1_head.h"

namespace servolley::net {

// Boost.Beast parses chunk headers and trailers; this class bounds and collects. Extensions and
// trailers are checked and dropped.
class ChunkDecoder final : private boost::beast::http::basic_parser<true> {
 public:
  // Offset `align_at` of the body will lie on a 64-byte boundary.
  ChunkDecoder(Pool& pool, std::uint64_t limit_bytes, std::size_t align_at,
               const Http1Limits& limits);

  // Returns how many bytes were used; the rest comes again, with more behind it. Stops behind the
  // body's last byte and at a failure.
  std::size_t feed(std::string_view bytes);
  bool done() const { return is_done(); }
  const HttpFailure& failure() const { return failure_; }

  std::span<const std::byte> body() const {
    if (body_.size() == 0) return {};
    return {body_.data() + offset_, body_.size() - offset_};
  }
  // The lease on body()'s memory; the decoder is spent.
  Buffer take() { return body_.take(); }

 private:
  using error_code = boost::beast::error_code;
  using string_view = boost::beast::string_view;

  void fail(int status, std::string_view message) {
    if (!failure_) failure_ = {status, message};
  }
  bool check_line(std::string_view line);
  void store(string_view data);

  void on_request_impl(boost::beast::http::verb, string_view, string_view, int,
                       error_code&) override {}
  void on_response_impl(int, string_view, int, error_code&) override {}
  void on_field_impl(boost::beast::http::field, string_view, string_view, error_code&) override {}
  void on_header_impl(error_code&) override {}
  void on_body_init_impl(const boost::optional<std::uint64_t>&, error_code&) override {}
  std::size_t on_body_impl(string_view, error_code&) override { return 0; }
  void on_chunk_header_impl(std::uint64_t size, string_view extensions, error_code& error) override;
  std::size_t on_chunk_body_impl(std::uint64_t remain, string_view data,
                                 error_code& error) override;
  void on_finish_impl(error_code&) override {}

  BufferWriter body_;  // `offset_` unused bytes, then the body
  std::size_t offset_;
  std::size_t chunks_left_;
  std::uint64_t chunk_left_ = 0;  // bytes of the current chunk; 0: a chunk header comes next
  HttpFailure failure_;
};

}  // namespace servolley::net
