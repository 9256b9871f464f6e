#include "codec/compression.h"

#include <zlib.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>
#include <string>

namespace servolley::codec {
namespace {

constexpr std::string_view kSpace = " \t";

std::string_view trim(std::string_view text) {
  const auto first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

bool same_word(std::string_view text, std::string_view lower) {
  return std::equal(text.begin(), text.end(), lower.begin(), lower.end(), [](char a, char b) {
    return (a >= 'A' && a <= 'Z' ? static_cast<char>(a | 0x20) : a) == b;
  });
}

std::optional<Coding> coding_of(std::string_view name) {
  if (same_word(name, "gzip") || same_word(name, "x-gzip")) return Coding::kGzip;
  if (same_word(name, "deflate")) return Coding::kDeflate;
  if (same_word(name, "identity")) return Coding::kIdentity;
  return std::nullopt;
}

// The quality value behind a coding's ';' in thousandths: 1000 without one, 0 if malformed.
int quality(std::string_view parameters) {
  parameters = trim(parameters);
  if (parameters.empty()) return 1000;
  if (parameters.size() < 3 || (parameters[0] | 0x20) != 'q' || parameters[1] != '=') return 0;
  const std::string_view value = parameters.substr(2);
  if (value[0] != '0' && value[0] != '1') return 0;
  int thousandths = (value[0] - '0') * 1000;
  if (value.size() == 1) return thousandths;
  if (value[1] != '.' || value.size() > 5) return 0;
  int unit = 100;
  for (const char c : value.substr(2)) {
    if (c < '0' || c > '9') return 0;
    thousandths += (c - '0') * unit;
    unit /= 10;
  }
  return std::min(thousandths, 1000);
}

// zlib counts in unsigned int.
constexpr std::size_t kMostPerCall = std::size_t{1} << 30;

unsigned per_call(std::size_t bytes) {
  return static_cast<unsigned>(std::min(bytes, kMostPerCall));
}

Bytef* zlib_bytes(const std::byte* data) {
  return const_cast<Bytef*>(reinterpret_cast<const Bytef*>(data));
}

// Pooled memory that zlib writes into, doubled as needed up to a limit.
class Output {
 public:
  Output(Pool& pool, std::size_t limit) : pool_(pool), limit_(limit) {}

  std::size_t size() const { return size_; }
  std::byte* tail() const { return buffer_.data() + size_; }
  std::size_t room() const { return room_ - size_; }
  void advance(std::size_t bytes) { size_ += bytes; }
  bool at_limit() const { return size_ == limit_; }

  Status grow(std::size_t first) {
    const std::size_t wanted = std::min(limit_, std::max(room_ * 2, first));
    auto bigger = pool_.allocate(std::max<std::size_t>(wanted, 1));
    if (!bigger) return std::move(bigger).error();
    if (size_) std::memcpy(bigger->data(), buffer_.data(), size_);
    buffer_ = std::move(*bigger);
    room_ = std::min(limit_, buffer_.capacity());
    return {};
  }
  Bytes take() { return {std::move(buffer_), size_}; }

 private:
  Pool& pool_;
  const std::size_t limit_;
  Buffer buffer_;
  std::size_t size_ = 0;
  std::size_t room_ = 0;
};

class Inflater {
 public:
  explicit Inflater(int window_bits) { ready_ = inflateInit2(&stream_, window_bits) == Z_OK; }
  ~Inflater() {
    if (ready_) inflateEnd(&stream_);
  }
  Inflater(const Inflater&) = delete;
  Inflater& operator=(const Inflater&) = delete;

  Status run(std::span<const std::byte> body, bool several_members, Output& out) {
    if (!ready_) return unavailable("no memory to decompress the request body");
    while (true) {
      // At the limit one byte more is asked for, outside the buffer: it tells a body that ends
      // exactly there from one that goes on.
      std::byte beyond{};
      const bool full = out.at_limit();
      if (!full && out.room() == 0)
        SERVOLLEY_TRY(out.grow(std::max<std::size_t>(4096, body.size())));
      stream_.next_in = zlib_bytes(body.data());
      stream_.avail_in = per_call(body.size());
      stream_.next_out = reinterpret_cast<Bytef*>(full ? &beyond : out.tail());
      stream_.avail_out = full ? 1 : per_call(out.room());
      const unsigned in_before = stream_.avail_in;
      const unsigned out_before = stream_.avail_out;
      const int code = ::inflate(&stream_, Z_NO_FLUSH);
      const std::size_t produced = out_before - stream_.avail_out;
      body = body.subspan(in_before - stream_.avail_in);
      if (full && produced > 0) {
        return too_large("the decompressed request body has more than " +
                         std::to_string(out.size()) + " bytes");
      }
      out.advance(produced);
      if (code == Z_STREAM_END) {
        if (body.empty()) return {};
        if (!several_members) return undecodable("bytes follow its end");
        if (inflateReset(&stream_) != Z_OK) return undecodable("it cannot be continued");
        continue;
      }
      if (code == Z_BUF_ERROR || (code == Z_OK && body.empty() && stream_.avail_out > 0)) {
        return undecodable("it is cut off");
      }
      if (code == Z_MEM_ERROR) return unavailable("no memory to decompress the request body");
      if (code != Z_OK) return undecodable(stream_.msg ? stream_.msg : "invalid data");
    }
  }

 private:
  static Status undecodable(std::string_view why) {
    std::string text = "the compressed request body cannot be decoded: ";
    text += why;
    return invalid_argument(std::move(text));
  }

  z_stream stream_{};
  bool ready_ = false;
};

bool has_gzip_magic(std::span<const std::byte> body) {
  return body.size() >= 2 && body[0] == std::byte{0x1F} && body[1] == std::byte{0x8B};
}

bool has_zlib_header(std::span<const std::byte> body) {
  if (body.size() < 2) return false;
  const auto method = std::to_integer<unsigned>(body[0]);
  return (method & 15) == 8 && (method * 256 + std::to_integer<unsigned>(body[1])) % 31 == 0;
}

constexpr int kGzipWindow = 15 + 16;
constexpr int kZlibWindow = 15;
constexpr int kRawWindow = -15;

Result<Bytes> inflate_as(int window, std::span<const std::byte> body, std::size_t limit,
                         Pool& pool) {
  Output out(pool, limit);
  if (Status status = Inflater(window).run(body, window == kGzipWindow, out); !status.ok()) {
    return status;
  }
  return out.take();
}

}  // namespace

Result<Coding> parse_content_encoding(std::string_view value) {
  const std::string_view name = trim(value);
  if (name.empty()) return Coding::kIdentity;
  if (const auto coding = coding_of(name)) return *coding;
  return Status(Code::kUnsupportedMedia,
                "unsupported Content-Encoding: expected identity, gzip or deflate, one at most");
}

Coding choose_response_coding(std::string_view accept_encoding) {
  // A list's default ends where a client names what it can do: one coding, not several.
  int identity = 0;
  int wanted = 0;
  bool identity_first = false;
  Coding coding = Coding::kIdentity;
  while (!accept_encoding.empty()) {
    const auto comma = std::min(accept_encoding.find(','), accept_encoding.size());
    const std::string_view item = accept_encoding.substr(0, comma);
    accept_encoding.remove_prefix(std::min(comma + 1, accept_encoding.size()));
    const auto semicolon = std::min(item.find(';'), item.size());
    const auto named = coding_of(trim(item.substr(0, semicolon)));
    const int q = semicolon == item.size() ? 1000 : quality(item.substr(semicolon + 1));
    if (!named || q == 0) continue;
    if (*named == Coding::kIdentity) {
      identity = q;
      identity_first = wanted == 0;
      continue;
    }
    if (coding != Coding::kIdentity && coding != *named) return Coding::kIdentity;
    coding = *named;
    wanted = q;
  }
  // As in Triton, the higher quality wins and the first listed among equals.
  if (identity > wanted || (identity == wanted && identity_first)) return Coding::kIdentity;
  return coding;
}

Result<Bytes> inflate(Coding coding, std::span<const std::byte> body, std::size_t limit_bytes,
                      Pool& pool) {
  if (coding == Coding::kIdentity) return internal_error("identity needs no inflating");
  // Clients mix the two up, so the data says what it is.
  if (has_gzip_magic(body)) return inflate_as(kGzipWindow, body, limit_bytes, pool);
  if (has_zlib_header(body)) {
    auto zlib = inflate_as(kZlibWindow, body, limit_bytes, pool);
    if (zlib || zlib.error().code() != Code::kInvalidArgument || coding == Coding::kGzip) {
      return zlib;
    }
    // Raw data may look like a zlib header by chance.
    auto raw = inflate_as(kRawWindow, body, limit_bytes, pool);
    return raw || raw.error().code() != Code::kInvalidArgument ? std::move(raw) : std::move(zlib);
  }
  return inflate_as(coding == Coding::kGzip ? kGzipWindow : kRawWindow, body, limit_bytes, pool);
}

Result<Bytes> deflate(Coding coding, const Payload& payload, Pool& pool, int level) {
  if (coding == Coding::kIdentity) return internal_error("identity needs no deflating");
  const Status no_memory = unavailable("no memory to compress the answer");
  z_stream stream{};
  constexpr int kMemoryLevel = 8;
  if (deflateInit2(&stream, level, Z_DEFLATED, coding == Coding::kGzip ? kGzipWindow : kZlibWindow,
                   kMemoryLevel, Z_DEFAULT_STRATEGY) != Z_OK) {
    return no_memory;
  }
  struct End {
    z_stream* stream;
    ~End() { deflateEnd(stream); }
  } const end{&stream};

  Output out(pool, std::numeric_limits<std::size_t>::max());
  const auto segments = payload.segments();
  std::size_t next = 0;
  std::span<const std::byte> input;
  while (true) {
    while (input.empty() && next < segments.size()) {
      input = {segments[next].data, segments[next].size};
      ++next;
    }
    if (out.room() == 0) {
      if (Status status = out.grow(std::max<std::size_t>(1024, payload.size() / 4)); !status.ok()) {
        return status;
      }
    }
    const bool last = next == segments.size() && input.size() <= kMostPerCall;
    stream.next_in = zlib_bytes(input.data());
    stream.avail_in = per_call(input.size());
    stream.next_out = reinterpret_cast<Bytef*>(out.tail());
    stream.avail_out = per_call(out.room());
    const unsigned in_before = stream.avail_in;
    const unsigned out_before = stream.avail_out;
    const int code = ::deflate(&stream, last ? Z_FINISH : Z_NO_FLUSH);
    input = input.subspan(in_before - stream.avail_in);
    out.advance(out_before - stream.avail_out);
    if (code == Z_STREAM_END) return out.take();
    if (code != Z_OK && code != Z_BUF_ERROR) return no_memory;
  }
}

}  // namespace servolley::codec
