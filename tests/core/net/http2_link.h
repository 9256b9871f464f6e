#pragma once

// An HTTP/2 connection without a socket: a server that records, a client over nghttp2's client
// session, and the wire between them.

#include <nghttp2/nghttp2.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/device.h"
#include "net/http2.h"

namespace servolley::net::http2_test {

using Fields = std::vector<std::pair<std::string, std::string>>;

inline std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline std::string with_prefix(std::string_view message, bool compressed = false) {
  const auto size = static_cast<std::uint32_t>(message.size());
  std::string bytes;
  bytes.push_back(compressed ? '\1' : '\0');
  for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<char>(size >> shift));
  return bytes.append(message);
}

inline std::string field_of(const Fields& fields, std::string_view name) {
  for (const auto& [key, value] : fields) {
    if (key == name) return value;
  }
  return {};
}

// What the handler saw of one call.
struct SeenStream {
  std::string path;
  std::string authority;
  Fields metadata;
  std::optional<std::uint64_t> timeout_us;
  bool accepts_gzip = false;
  bool accepts_deflate = false;
  std::vector<std::string> messages;
  std::vector<MessageCoding> codings;
  bool half_closed = false;
  bool cancelled = false;
  friend bool operator==(const SeenStream&, const SeenStream&) = default;
};

// Records; answers as told by the hooks.
class Server : public Http2Handler {
 public:
  Status on_call(std::uint32_t stream, const GrpcHead& head, std::uint64_t* limit) override {
    SeenStream& call = calls[stream];
    call.path = head.path;
    call.authority = head.authority;
    for (const Header& header : head.metadata) {
      call.metadata.emplace_back(header.name, header.value);
    }
    call.timeout_us = head.timeout_us;
    call.accepts_gzip = head.accepts_gzip;
    call.accepts_deflate = head.accepts_deflate;
    if (message_limit) *limit = message_limit;
    return call_hook ? call_hook(stream) : Status();
  }
  void on_message(std::uint32_t stream, GrpcMessage&& message) override {
    if (!message.bytes.empty()) {
      aligned &=
          (reinterpret_cast<std::uintptr_t>(message.bytes.data()) + message.bytes.size()) % 64 == 0;
      owned &= message.owner.data() <= message.bytes.data() &&
               message.bytes.data() + message.bytes.size() <=
                   message.owner.data() + message.owner.capacity();
    }
    if (record_messages) {
      calls[stream].messages.push_back(text_of(message.bytes));
      calls[stream].codings.push_back(message.coding);
    }
    ++messages;
    if (message_hook) message_hook(stream, message);
  }
  void on_half_close(std::uint32_t stream) override {
    calls[stream].half_closed = true;
    if (half_close_hook) half_close_hook(stream);
  }
  void on_cancel(std::uint32_t stream) override {
    calls[stream].cancelled = true;
    cancels.push_back(stream);
    if (cancel_hook) cancel_hook(stream);
  }

  std::map<std::uint32_t, SeenStream> calls;
  std::vector<std::uint32_t> cancels;
  std::size_t messages = 0;
  std::uint64_t message_limit = 0;
  bool record_messages = true;
  bool aligned = true;
  bool owned = true;
  std::function<Status(std::uint32_t)> call_hook;
  std::function<void(std::uint32_t, GrpcMessage&)> message_hook;
  std::function<void(std::uint32_t)> half_close_hook;
  std::function<void(std::uint32_t)> cancel_hook;
};

// The connection, its memory and its clock.
class Host {
 public:
  explicit Host(const Http2Limits& limits = {}, Pool::Options memory = {})
      : pool(cpu_device(), memory),
        connection(std::make_unique<Http2Connection>(server, pool, scratch, limits, now)) {}

  void send(std::uint32_t stream, std::string_view message,
            MessageCoding coding = MessageCoding::kIdentity) {
    Payload body;
    body.add_static(message);
    connection->send_message(stream, body, coding, now);
  }
  void finish(std::uint32_t stream, const Status& status = {}, std::span<const Header> extra = {}) {
    connection->finish(stream, status, now, extra);
  }
  // Every message comes back, and the call ends OK with the client's half-close.
  void echo() {
    server.message_hook = [this](std::uint32_t stream, GrpcMessage& message) {
      Payload body;
      body.add(message.owner.share(), message.bytes.data(), message.bytes.size());
      connection->send_message(stream, body, MessageCoding::kIdentity, now);
    };
    server.half_close_hook = [this](std::uint32_t stream) { finish(stream); };
  }
  void feed(std::string_view bytes) {
    while (!bytes.empty()) {
      const auto space = connection->receive_space();
      const std::size_t part = std::min(space.size(), bytes.size());
      direct_bytes += space.data() == scratch.data.get() ? 0 : part;
      std::memcpy(space.data(), bytes.data(), part);
      connection->received(part, now);
      bytes.remove_prefix(part);
    }
  }
  // What is ready for the socket, at most `limit` bytes.
  std::string drink(std::size_t limit = static_cast<std::size_t>(-1)) {
    std::string bytes;
    iovec pieces[8];
    while (limit) {
      const std::size_t count = connection->output(pieces, 8);
      std::size_t taken = 0;
      for (std::size_t i = 0; i < count && taken < limit; ++i) {
        const std::size_t part = std::min(pieces[i].iov_len, limit - taken);
        bytes.append(static_cast<const char*>(pieces[i].iov_base), part);
        taken += part;
      }
      if (taken == 0) break;
      limit -= taken;
      connection->sent(taken, now);
    }
    return bytes;
  }

  Pool pool;
  ReadScratch scratch;
  Server server;
  TimePoint now{std::chrono::hours(1)};
  std::size_t direct_bytes = 0;  // that were read where they stay
  std::unique_ptr<Http2Connection> connection;
};

// One call as the client sees it.
struct ClientCall {
  Fields headers;
  Fields trailers;
  std::string body;
  bool closed = false;
  std::uint32_t error = 0;
  bool headers_only = false;  // the first header block ended the stream

  std::string status() const {
    return headers_only ? field_of(headers, "grpc-status") : field_of(trailers, "grpc-status");
  }
  std::string message() const {
    return headers_only ? field_of(headers, "grpc-message") : field_of(trailers, "grpc-message");
  }
  std::vector<std::string> messages() const;
};

inline std::vector<std::string> ClientCall::messages() const {
  std::vector<std::string> found;
  for (std::size_t at = 0; at + 5 <= body.size();) {
    std::size_t size = 0;
    for (int i = 1; i < 5; ++i)
      size = size << 8 | static_cast<unsigned char>(body[at + static_cast<std::size_t>(i)]);
    found.push_back(body.substr(at + 5, size));
    at += 5 + size;
  }
  return found;
}

class Client {
 public:
  explicit Client(std::uint32_t window = (1u << 31) - 1, bool updates_windows = true);
  ~Client() { nghttp2_session_del(session); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  static Fields head(std::string_view path) {
    return {{":method", "POST"},          {":scheme", "http"},
            {":path", std::string(path)}, {":authority", "test:8001"},
            {"te", "trailers"},           {"content-type", "application/grpc"},
            {"user-agent", "test/1"},     {"grpc-accept-encoding", "identity, deflate, gzip"}};
  }
  // A call whose messages follow with send().
  std::int32_t open(const Fields& fields);
  void send(std::int32_t id, std::string bytes);
  void half_close(std::int32_t id);
  void cancel(std::int32_t id) {
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, id, NGHTTP2_CANCEL);
  }
  std::int32_t unary(std::string_view path, std::string_view message) {
    const std::int32_t id = open(head(path));
    send(id, with_prefix(message));
    half_close(id);
    return id;
  }
  std::string drink();
  void feed(std::string_view bytes);

  nghttp2_session* session = nullptr;
  std::map<std::int32_t, ClientCall> calls;
  std::vector<std::pair<std::int32_t, std::uint32_t>> goaways;  // last stream, error
  std::size_t pings = 0;
  std::size_t frames = 0;  // received

 private:
  struct Upload {
    std::string bytes;
    std::size_t sent = 0;
    bool ended = false;
    bool deferred = false;
  };
  std::map<std::int32_t, Upload> uploads_;
};

// The two ends and the wire.
struct Link : Host, Client {
  explicit Link(const Http2Limits& limits = {}, std::uint32_t window = (1u << 31) - 1,
                Pool::Options memory = {})
      : Host(limits, memory), Client(window) {}
  // Until both are silent.
  void run() {
    for (bool busy = true; busy;) {
      const std::string up = Client::drink();
      Host::feed(up);
      const std::string down = Host::drink();
      Client::feed(down);
      busy = !up.empty() || !down.empty();
    }
  }
  using Host::send;
  void say(std::int32_t id, std::string_view message) { Client::send(id, with_prefix(message)); }
};

inline Client::Client(std::uint32_t window, bool updates_windows) {
  nghttp2_session_callbacks* callbacks = nullptr;
  nghttp2_session_callbacks_new(&callbacks);
  nghttp2_session_callbacks_set_on_header_callback(
      callbacks, [](nghttp2_session*, const nghttp2_frame* frame, const std::uint8_t* name,
                    std::size_t name_size, const std::uint8_t* value, std::size_t value_size,
                    std::uint8_t, void* user) {
        ClientCall& call = static_cast<Client*>(user)->calls[frame->hd.stream_id];
        const bool first = frame->headers.cat == NGHTTP2_HCAT_RESPONSE;
        (first ? call.headers : call.trailers)
            .emplace_back(std::string(reinterpret_cast<const char*>(name), name_size),
                          std::string(reinterpret_cast<const char*>(value), value_size));
        return 0;
      });
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
      callbacks, [](nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                    std::size_t size, void* user) {
        static_cast<Client*>(user)->calls[id].body.append(reinterpret_cast<const char*>(data),
                                                          size);
        return 0;
      });
  nghttp2_session_callbacks_set_on_frame_recv_callback(
      callbacks, [](nghttp2_session*, const nghttp2_frame* frame, void* user) {
        Client& client = *static_cast<Client*>(user);
        ++client.frames;
        if (frame->hd.type == NGHTTP2_GOAWAY) {
          client.goaways.emplace_back(frame->goaway.last_stream_id, frame->goaway.error_code);
        }
        if (frame->hd.type == NGHTTP2_PING && !(frame->hd.flags & NGHTTP2_FLAG_ACK)) ++client.pings;
        if (frame->hd.type == NGHTTP2_HEADERS && frame->headers.cat == NGHTTP2_HCAT_RESPONSE &&
            frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
          client.calls[frame->hd.stream_id].headers_only = true;
        }
        return 0;
      });
  nghttp2_session_callbacks_set_on_stream_close_callback(
      callbacks, [](nghttp2_session*, std::int32_t id, std::uint32_t error, void* user) {
        ClientCall& call = static_cast<Client*>(user)->calls[id];
        call.closed = true;
        call.error = error;
        return 0;
      });
  nghttp2_option* options = nullptr;
  nghttp2_option_new(&options);
  nghttp2_option_set_no_auto_window_update(options, !updates_windows);
  nghttp2_option_set_max_outbound_ack(options, 1 << 20);
  nghttp2_session_client_new2(&session, callbacks, this, options);
  nghttp2_option_del(options);
  nghttp2_session_callbacks_del(callbacks);
  const nghttp2_settings_entry entries[] = {{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, window},
                                            {NGHTTP2_SETTINGS_ENABLE_PUSH, 0}};
  nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, entries, 2);
  if (window > NGHTTP2_INITIAL_CONNECTION_WINDOW_SIZE) {
    nghttp2_session_set_local_window_size(session, NGHTTP2_FLAG_NONE, 0,
                                          static_cast<std::int32_t>(window));
  }
}

inline std::int32_t Client::open(const Fields& fields) {
  std::vector<nghttp2_nv> list;
  for (const auto& [name, value] : fields) {
    const auto bytes = [](const std::string& s) {
      return reinterpret_cast<std::uint8_t*>(const_cast<char*>(s.data()));
    };
    list.push_back({bytes(name), bytes(value), name.size(), value.size(), NGHTTP2_NV_FLAG_NONE});
  }
  nghttp2_data_provider provider;
  provider.source.ptr = this;
  provider.read_callback = [](nghttp2_session*, std::int32_t id, std::uint8_t* into,
                              std::size_t room, std::uint32_t* flags, nghttp2_data_source* source,
                              void*) -> ssize_t {
    Upload& upload = static_cast<Client*>(source->ptr)->uploads_[id];
    const std::size_t part = std::min(room, upload.bytes.size() - upload.sent);
    if (part == 0 && !upload.ended) {
      upload.deferred = true;
      return NGHTTP2_ERR_DEFERRED;
    }
    std::memcpy(into, upload.bytes.data() + upload.sent, part);
    upload.sent += part;
    if (upload.sent == upload.bytes.size()) {
      upload.bytes.clear();
      upload.sent = 0;
      if (upload.ended) *flags |= NGHTTP2_DATA_FLAG_EOF;
    }
    return static_cast<ssize_t>(part);
  };
  return nghttp2_submit_request(session, nullptr, list.data(), list.size(), &provider, nullptr);
}

inline void Client::send(std::int32_t id, std::string bytes) {
  Upload& upload = uploads_[id];
  upload.bytes += bytes;
  if (std::exchange(upload.deferred, false)) nghttp2_session_resume_data(session, id);
}

inline void Client::half_close(std::int32_t id) {
  Upload& upload = uploads_[id];
  upload.ended = true;
  if (std::exchange(upload.deferred, false)) nghttp2_session_resume_data(session, id);
}

inline std::string Client::drink() {
  std::string bytes;
  const std::uint8_t* frame = nullptr;
  for (ssize_t size; (size = nghttp2_session_mem_send(session, &frame)) > 0;) {
    bytes.append(reinterpret_cast<const char*>(frame), static_cast<std::size_t>(size));
  }
  return bytes;
}

inline void Client::feed(std::string_view bytes) {
  if (bytes.empty()) return;
  nghttp2_session_mem_recv(session, reinterpret_cast<const std::uint8_t*>(bytes.data()),
                           bytes.size());
}

}  // namespace servolley::net::http2_test
