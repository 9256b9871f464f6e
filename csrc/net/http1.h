#pragma once

// net [layer 4]: sans-I/O connections. Bytes in -> complete calls; replies -> bytes out. No
// sockets, no clock (`now` is an argument), no models, no tensors: routes and bodies are the
// engine's business.

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/status.h"
#include "memory/buffer.h"
#include "memory/payload.h"
#include "memory/pool.h"

namespace servolley::net {

inline constexpr std::size_t kHeaderCountMax = 256;

struct Http1Limits {
  std::size_t target_bytes = 8 << 10;   // 414 above
  std::size_t header_bytes = 64 << 10;  // request line and headers together: 431 above
  std::size_t header_count = 100;       // 431 above; at most kHeaderCountMax
  std::uint64_t body_bytes = std::uint64_t{64}
                             << 20;    // 413 above; the handler may lower it per call
  std::size_t chunks = 65536;          // non-empty chunks of one body: 400 above
  std::size_t exchanges = 64;          // pipelined calls without an answer before reading pauses
  std::size_t unsent_bytes = 4 << 20;  // answers queued before reading pauses
  Duration header_timeout =
      std::chrono::seconds(10);  // first byte of a call to the end of its head: 408
  // Without progress (1 KiB, or the rest) in a body: 408.
  Duration body_timeout = std::chrono::seconds(30);
  Duration idle_timeout = std::chrono::seconds(300);  // keep-alive without a call: closed silently
  Duration write_timeout = std::chrono::seconds(60);  // unsent output without progress: dropped
  // After a refused body: how long its rest is read and thrown away before the connection closes.
  // Closing at once would reset the connection, and the client would never see the answer.
  Duration linger_timeout = std::chrono::seconds(2);
};

struct Header {
  std::string_view name;  // lower case
  std::string_view value;
};

// The head of a call. Views die with the handler's call that received them.
struct RequestHead {
  std::string_view method;  // as sent; methods are case-sensitive
  // As sent: undecoded, with the query. Starts with '/', or is an absolute "http(s)://..." (ASCII).
  std::string_view target;
  std::span<const Header> headers;
  std::optional<std::uint64_t> content_length;
  bool chunked = false;

  // The first header of that (lower-case) name.
  const Header* find(std::string_view name) const {
    for (const Header& h : headers) {
      if (h.name == name) return &h;
    }
    return nullptr;
  }
};

// What the handler says to a head before its body is read.
struct BodyPlan {
  Status refusal;             // not OK: answered at once, the connection closes after the answer
  std::uint64_t limit_bytes;  // the body's limit for this call
  std::size_t align_at = 0;   // this offset of the body shall lie on a 64-byte boundary
};

struct HttpRequest {
  std::uint64_t exchange = 0;  // names the answer
  RequestHead head;
  std::span<const std::byte> body;
  // Keeps `body` alive. Empty: the bytes lie in the read buffer and die with the call of
  // on_request.
  Buffer body_owner;
};

class Http1Handler {
 public:
  virtual ~Http1Handler() = default;
  // Once per call, also if it has no body, and before its on_request.
  virtual BodyPlan plan_body(const RequestHead& head) = 0;
  // A complete call. May answer at once through Http1Connection::respond, or at any later time.
  virtual void on_request(HttpRequest&& request) = 0;
};

struct ResponseHead {
  int status = 200;
  std::string_view content_type = {};      // empty: no such header
  std::size_t inference_json_length = 0;   // > 0: Inference-Header-Content-Length
  std::string_view content_encoding = {};  // empty: no such header
  std::string_view extra = {};             // rendered lines "Name: value\r\n...", may be empty
  bool close = false;                      // close the connection after this answer
};

// Where all connections of one loop read into while no large body is under way. A read is consumed
// before the next one starts, so one is enough.
struct ReadScratch {
  explicit ReadScratch(std::size_t bytes = 64 << 10)
      : size(bytes), data(std::make_unique<std::byte[]>(bytes)) {}
  std::size_t size;
  std::unique_ptr<std::byte[]> data;
};

// One HTTP/1.1 server connection: keep-alive, pipelining with answers in call order, Content-Length
// and chunked bodies, Expect: 100-continue, strict framing, limits, deadlines, back-pressure.
// HTTP/1.0 and missing Host are refused. After an error it answers {"error":"..."} and closes.
//
// A body that is not complete with the read that ends its head goes into one pooled buffer of its
// full length, and receive_space() then points into that buffer: the kernel writes the rest where
// it stays. Small bodies are handed out as views of the read buffer.
class Http1Connection {
 public:
  Http1Connection(Http1Handler& handler, Pool& pool, ReadScratch& scratch,
                  const Http1Limits& limits, TimePoint now);
  ~Http1Connection();
  Http1Connection(const Http1Connection&) = delete;
  Http1Connection& operator=(const Http1Connection&) = delete;

  // Where the next bytes go; never empty. Valid until any other non-const member is called, or any
  // other connection's receive_space() on the same scratch.
  std::span<std::byte> receive_space();
  // The first `bytes` of receive_space() were filled.
  void received(std::size_t bytes, TimePoint now);
  // The peer will send no more. Answers under way may still be sent.
  void received_eof(TimePoint now);

  // Answers a call; each exactly once. Unknown exchanges (answered, or the connection failed) are
  // ignored. Takes over the owners in `body` and leaves it empty; small or ownerless segments are
  // copied. Never calls the handler, so it may be called from inside on_request.
  void respond(std::uint64_t exchange, const ResponseHead& head, Payload& body, TimePoint now);

  // Unsent bytes, at most `count` pieces; returns how many were filled. Valid until the next call
  // of any non-const member.
  std::size_t output(iovec* pieces, std::size_t count) const;
  // May call the handler: calls that were read before a pause are parsed as soon as there is room.
  void sent(std::size_t bytes, TimePoint now);
  // Moves everything unsent out, with the leases that keep it alive (pieces without an owner are
  // copied into pooled memory first): it counts as sent, somebody else writes it.
  void take_output(Payload& output, TimePoint now);
  bool has_output() const;

  // False while too much is unsent or unanswered: the caller stops reading until it turns true
  // again.
  bool wants_read() const;
  // True when everything that will ever be sent was sent: the caller closes the socket.
  bool wants_close() const;
  // Calls without an answer yet.
  std::size_t open_exchanges() const;
  // No more calls are accepted: idle connections want to close, others answer the calls under way
  // (also one whose head has begun to arrive), the last one with Connection: close.
  void drain();

  TimePoint next_deadline() const;
  void on_deadline(TimePoint now);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace servolley::net
