#include "net/http2_head.h"

#include <algorithm>

namespace servolley::net {
namespace {

// SETTINGS_MAX_HEADER_LIST_SIZE counts this for every field.
constexpr std::size_t kFieldOverhead = 32;
// Fields above the announced size are counted, not kept.
constexpr std::size_t kKeepBytesMax = 256 << 10;
constexpr std::string_view kGrpcType = "application/grpc";

std::string_view text(nghttp2_rcbuf* buffer) {
  const nghttp2_vec bytes = nghttp2_rcbuf_get_buf(buffer);
  return {reinterpret_cast<const char*>(bytes.base), bytes.len};
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

bool starts_with_ignoring_case(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && std::equal(prefix.begin(), prefix.end(), text.begin(),
                                                    [](char a, char b) { return a == lower(b); });
}

std::string_view trimmed(std::string_view text) {
  const auto space = [](char c) { return c == ' ' || c == '\t'; };
  while (!text.empty() && space(text.front())) text.remove_prefix(1);
  while (!text.empty() && space(text.back())) text.remove_suffix(1);
  return text;
}

}  // namespace

std::optional<std::uint64_t> parse_grpc_timeout(std::string_view text) {
  if (text.size() < 2 || text.size() > 9) return std::nullopt;
  std::uint64_t value = 0;
  for (const char c : text.substr(0, text.size() - 1)) {
    if (c < '0' || c > '9') return std::nullopt;
    value = value * 10 + static_cast<std::uint64_t>(c - '0');
  }
  switch (text.back()) {  // eight digits of hours are far below 2^64 us
    case 'H':
      return value * 3'600'000'000;
    case 'M':
      return value * 60'000'000;
    case 'S':
      return value * 1'000'000;
    case 'm':
      return value * 1000;
    case 'u':
      return value;
    case 'n':
      return value / 1000;
    default:
      return std::nullopt;
  }
}

bool is_grpc_content_type(std::string_view text) {
  constexpr std::string_view kProto = "+proto";
  if (!starts_with_ignoring_case(text, kGrpcType)) return false;
  text.remove_prefix(kGrpcType.size());
  if (starts_with_ignoring_case(text, kProto)) text.remove_prefix(kProto.size());
  text = trimmed(text);
  return text.empty() || text.front() == ';';
}

void HeadReader::begin(bool keep) {
  clear();
  keep_ = keep;
}

void HeadReader::clear() {
  for (nghttp2_rcbuf* buffer : kept_) nghttp2_rcbuf_decref(buffer);
  kept_.clear();
  metadata_.clear();
  list_bytes_ = 0;
  path_ = {};
  authority_ = {};
  timeout_us_.reset();
  coding_ = MessageCoding::kIdentity;
  is_post_ = is_grpc_ = bad_timeout_ = unknown_encoding_ = accepts_gzip_ = accepts_deflate_ = false;
}

void HeadReader::add(nghttp2_rcbuf* name_buffer, nghttp2_rcbuf* value_buffer) {
  const std::string_view name = text(name_buffer);
  const std::string_view value = text(value_buffer);
  list_bytes_ += name.size() + value.size() + kFieldOverhead;
  if (!keep_ || list_bytes_ > kKeepBytesMax || name.empty()) return;
  if (name.front() == ':') {
    if (name == ":path") {
      path_ = value;
    } else if (name == ":authority") {
      authority_ = value;
    } else {
      is_post_ |= name == ":method" && value == "POST";
      return;
    }
  } else if (add_own(name, value)) {
    return;
  } else {
    if (name == "host" && authority_.empty()) authority_ = value;
    metadata_.push_back({name, value});
    nghttp2_rcbuf_incref(name_buffer);
    kept_.push_back(name_buffer);
  }
  nghttp2_rcbuf_incref(value_buffer);
  kept_.push_back(value_buffer);
}

// True if the field is the protocol's own, and was read.
bool HeadReader::add_own(std::string_view name, std::string_view value) {
  // By size first: most fields are told apart by it alone.
  switch (name.size()) {
    case 2:
      return name == "te";
    case 12:
      if (name == "content-type") {
        is_grpc_ = value == kGrpcType || is_grpc_content_type(value);
        return true;
      }
      if (name != "grpc-timeout") return false;
      timeout_us_ = parse_grpc_timeout(value);
      bad_timeout_ |= !timeout_us_;
      return true;
    case 13:
      if (name != "grpc-encoding") return false;
      coding_ = value == "gzip"      ? MessageCoding::kGzip
                : value == "deflate" ? MessageCoding::kDeflate
                                     : MessageCoding::kIdentity;
      unknown_encoding_ = coding_ == MessageCoding::kIdentity && value != "identity";
      return true;
    case 17:
      return name == "grpc-message-type";
    case 20:
      if (name != "grpc-accept-encoding") return false;
      read_accepted(value);
      return true;
    default:
      return false;
  }
}

void HeadReader::read_accepted(std::string_view list) {
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    const std::string_view coding = trimmed(list.substr(0, comma));
    accepts_gzip_ |= coding == "gzip";
    accepts_deflate_ |= coding == "deflate";
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
}

int HeadReader::http_refusal() const {
  if (!is_grpc_) return 415;
  if (!is_post_) return 405;
  return 0;
}

Status HeadReader::refusal(std::size_t limit_bytes) const {
  if (list_bytes_ > limit_bytes) {
    return {Code::kHeadersTooLarge, "the call's metadata is larger than allowed"};
  }
  if (bad_timeout_) return invalid_argument("malformed grpc-timeout");
  if (unknown_encoding_) {
    return {Code::kUnimplemented, "grpc-encoding is none of identity, deflate, gzip"};
  }
  return {};
}

GrpcHead HeadReader::head() const {
  return {.path = path_,
          .authority = authority_,
          .metadata = metadata_,
          .timeout_us = timeout_us_,
          .accepts_gzip = accepts_gzip_,
          .accepts_deflate = accepts_deflate_};
}

}  // namespace servolley::net
