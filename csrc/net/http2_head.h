#pragma once

// The header fields of one call, read as gRPC's protocol over HTTP/2 has them.

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "net/http2.h"

namespace servolley::net {

// "1S", "250m", ...: microseconds, rounded down; nothing if malformed.
std::optional<std::uint64_t> parse_grpc_timeout(std::string_view text);
// application/grpc or application/grpc+proto, with or without parameters.
bool is_grpc_content_type(std::string_view text);

class HeadReader {
 public:
  HeadReader() = default;
  ~HeadReader() { clear(); }
  HeadReader(const HeadReader&) = delete;
  HeadReader& operator=(const HeadReader&) = delete;

  // Begins the head of a call, or with `keep` false a block of fields that nobody reads.
  void begin(bool keep);
  void add(nghttp2_rcbuf* name, nghttp2_rcbuf* value);
  void clear();
  // As SETTINGS_MAX_HEADER_LIST_SIZE counts.
  std::size_t list_bytes() const { return list_bytes_; }

  // After the last field. An HTTP status, if this is not gRPC; otherwise 0.
  int http_refusal() const;
  Status refusal(std::size_t limit_bytes) const;
  bool unknown_encoding() const { return unknown_encoding_; }
  GrpcHead head() const;
  MessageCoding coding() const { return coding_; }

 private:
  bool add_own(std::string_view name, std::string_view value);
  void read_accepted(std::string_view list);

  std::vector<nghttp2_rcbuf*> kept_;  // what the views below point into
  std::vector<Header> metadata_;
  bool keep_ = false;
  std::size_t list_bytes_ = 0;
  std::string_view path_;
  std::string_view authority_;
  std::optional<std::uint64_t> timeout_us_;
  MessageCoding coding_ = MessageCoding::kIdentity;
  bool is_post_ = false;
  bool is_grpc_ = false;
  bool bad_timeout_ = false;
  bool unknown_encoding_ = false;
  bool accepts_gzip_ = false;
  bool accepts_deflate_ = false;
};

}  // namespace servolley::net
