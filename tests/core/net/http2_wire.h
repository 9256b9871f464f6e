#pragma once

// Frames made by hand, for what a well-behaved client never sends.

#include <nghttp2/nghttp2.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace servolley::net::http2_test {

inline std::string number(std::uint64_t value, int bytes) {
  std::string text;
  for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
    text.push_back(static_cast<char>(value >> shift));
  }
  return text;
}

inline std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t stream,
                         std::string_view payload = {}) {
  std::string bytes = number(payload.size(), 3);
  bytes.push_back(static_cast<char>(type));
  bytes.push_back(static_cast<char>(flags));
  return bytes.append(number(stream, 4)).append(payload);
}

inline std::string settings(std::initializer_list<std::pair<int, std::uint32_t>> entries = {}) {
  std::string payload;
  for (const auto& [id, value] : entries) {
    payload += number(static_cast<std::uint64_t>(id), 2) + number(value, 4);
  }
  return frame(NGHTTP2_SETTINGS, 0, 0, payload);
}

inline std::string greeting() { return NGHTTP2_CLIENT_MAGIC + settings(); }

// A field as a literal that is not written to the table; no Huffman code.
inline std::string literal(std::string_view name, std::string_view value) {
  const auto text = [](std::string_view s) {
    std::string bytes;
    if (s.size() < 127) {
      bytes.push_back(static_cast<char>(s.size()));
    } else {
      bytes.push_back('\x7f');
      std::size_t rest = s.size() - 127;
      for (; rest >= 128; rest /= 128) bytes.push_back(static_cast<char>(rest % 128 + 128));
      bytes.push_back(static_cast<char>(rest));
    }
    return bytes.append(s);
  };
  return std::string(1, '\0') + text(name) + text(value);
}

inline std::string grpc_head() {
  return literal(":method", "POST") + literal(":scheme", "http") + literal(":path", "/s/m") +
         literal(":authority", "h") + literal("content-type", "application/grpc");
}

inline std::string headers(std::uint32_t stream, std::string_view block,
                           std::uint8_t flags = NGHTTP2_FLAG_END_HEADERS) {
  return frame(NGHTTP2_HEADERS, flags, stream, block);
}
inline std::string data(std::uint32_t stream, std::string_view payload, bool last = false) {
  return frame(NGHTTP2_DATA, last ? NGHTTP2_FLAG_END_STREAM : 0, stream, payload);
}
inline std::string reset(std::uint32_t stream, std::uint32_t error = NGHTTP2_CANCEL) {
  return frame(NGHTTP2_RST_STREAM, 0, stream, number(error, 4));
}
inline std::string window_update(std::uint32_t stream, std::uint32_t bytes) {
  return frame(NGHTTP2_WINDOW_UPDATE, 0, stream, number(bytes, 4));
}

struct WireFrame {
  int type = 0;
  int flags = 0;
  std::uint32_t stream = 0;
  std::string payload;
};

// What the server sent, frame by frame.
inline std::vector<WireFrame> frames_of(std::string_view bytes) {
  std::vector<WireFrame> found;
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  while (bytes.size() >= 9) {
    const std::size_t size = std::size_t{byte(0)} << 16 | std::size_t{byte(1)} << 8 | byte(2);
    const std::uint32_t stream = std::uint32_t{byte(5)} << 24 | std::uint32_t{byte(6)} << 16 |
                                 std::uint32_t{byte(7)} << 8 | byte(8);
    found.push_back({byte(3), byte(4), stream, std::string(bytes.substr(9, size))});
    bytes.remove_prefix(std::min(9 + size, bytes.size()));
  }
  return found;
}

// What one stream was answered.
struct WireAnswer {
  std::vector<std::pair<std::string, std::string>> fields;  // of the head and the trailers
  std::string body;
  bool ended = false;
  friend bool operator==(const WireAnswer&, const WireAnswer&) = default;

  std::string field(std::string_view name) const {
    for (const auto& [key, value] : fields) {
      if (key == name) return value;
    }
    return {};
  }
};

// From the connection's first byte on.
inline std::map<std::uint32_t, WireAnswer> answers_of(std::string_view bytes) {
  std::map<std::uint32_t, WireAnswer> answers;
  nghttp2_hd_inflater* inflater = nullptr;
  nghttp2_hd_inflate_new(&inflater);
  for (const WireFrame& f : frames_of(bytes)) {
    if (f.type != NGHTTP2_HEADERS && f.type != NGHTTP2_DATA) continue;
    WireAnswer& answer = answers[f.stream];
    answer.ended |= (f.flags & NGHTTP2_FLAG_END_STREAM) != 0;
    if (f.type == NGHTTP2_DATA) {
      answer.body += f.payload;
      continue;
    }
    const auto* in = reinterpret_cast<const std::uint8_t*>(f.payload.data());
    for (std::size_t left = f.payload.size();;) {
      nghttp2_nv nv;
      int flags = 0;
      const ssize_t used = nghttp2_hd_inflate_hd2(inflater, &nv, &flags, in, left, 1);
      if (used < 0) break;
      in += used;
      left -= static_cast<std::size_t>(used);
      if (flags & NGHTTP2_HD_INFLATE_EMIT) {
        answer.fields.emplace_back(std::string(reinterpret_cast<char*>(nv.name), nv.namelen),
                                   std::string(reinterpret_cast<char*>(nv.value), nv.valuelen));
      }
      if (flags & NGHTTP2_HD_INFLATE_FINAL) break;
    }
    nghttp2_hd_inflate_end_headers(inflater);
  }
  nghttp2_hd_inflate_del(inflater);
  return answers;
}

// The error of the last GOAWAY, or -1.
inline int goaway_error(std::string_view bytes) {
  int error = -1;
  for (const WireFrame& f : frames_of(bytes)) {
    if (f.type == NGHTTP2_GOAWAY && f.payload.size() >= 8) {
      error = static_cast<unsigned char>(f.payload[7]);
    }
  }
  return error;
}

}  // namespace servolley::net::http2_test
