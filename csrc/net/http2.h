#pragma once

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
#include "net/http1.h"  // Header, ReadScratch

namespace servolley::net {

struct Http2Limits {
  std::uint32_t concurrent_streams = 1024;     // announced; more are refused
  std::uint32_t header_list_bytes = 16 << 10;  // announced; above: RESOURCE_EXHAUSTED
  // Of one message, as sent and inflated. RESOURCE_EXHAUSTED above.
  std::uint64_t message_bytes = (std::uint64_t{1} << 31) - 1;
  std::uint32_t stream_window_bytes = 4 << 20;
  std::uint32_t connection_window_bytes = 16 << 20;
  // Messages of one connection that are announced and incomplete, or wait for room for their
  // answers. RESOURCE_EXHAUSTED above.
  std::uint64_t buffered_message_bytes = std::uint64_t{256} << 20;
  std::size_t unsent_bytes = 8 << 20;  // queued answers before calls and reading pause
  // Resets (sent, or provoked), PINGs, SETTINGS, empty DATA, window updates, each: GOAWAY above.
  // PINGs and window updates are free for each frame of an answer.
  std::uint32_t floods_per_second = 2000;
  // An announced message, whose memory is taken, without progress (1 KiB) from one look to the
  // next: DEADLINE_EXCEEDED.
  Duration message_timeout = std::chrono::seconds(30);
  Duration preface_timeout = std::chrono::seconds(10);
  Duration idle_timeout = std::chrono::seconds(7200);  // without a stream: GOAWAY, then closed
  // Nothing read for so long: a PING; nothing then for keepalive_timeout: closed.
  Duration keepalive_interval = std::chrono::seconds(7200);
  Duration keepalive_timeout = std::chrono::seconds(20);
  // Unsent output without progress: if the socket does not take it, the connection is dropped; if
  // the client's windows stay closed, its calls are.
  Duration write_timeout = std::chrono::seconds(60);
};

// The head of a gRPC call. Views die with the handler's call that received them.
struct GrpcHead {
  std::string_view path;  // "/package.Service/Method"
  std::string_view authority;
  // Everything that is neither pseudo nor gRPC's own; "-bin" as sent.
  std::span<const Header> metadata;
  std::optional<std::uint64_t> timeout_us;  // grpc-timeout, rounded down
  bool accepts_gzip = false;
  bool accepts_deflate = false;
};

enum class MessageCoding : std::uint8_t { kIdentity, kGzip, kDeflate };

// One complete message of a call, as sent: still compressed if `coding` says so. `bytes` ends on a
// 64-byte boundary of `owner`: serializers put large values behind small ones, and what ends a
// message is then aligned to whatever its own size is a multiple of.
struct GrpcMessage {
  std::span<const std::byte> bytes;
  Buffer owner;
  MessageCoding coding = MessageCoding::kIdentity;
};

class Http2Handler {
 public:
  virtual ~Http2Handler() = default;
  // A new call. A status that is not OK is answered at once (trailers only) and the call is over:
  // nothing else is reported of it. `*message_limit` may be lowered for this call.
  virtual Status on_call(std::uint32_t stream, const GrpcHead& head,
                         std::uint64_t* message_limit) = 0;
  virtual void on_message(std::uint32_t stream, GrpcMessage&& message) = 0;
  // The client will send no more messages.
  virtual void on_half_close(std::uint32_t stream) = 0;
  // The call is over without our answer: reset by the client, ended by the connection because the
  // client broke its rules, or the connection failed. Not called for calls that were finished.
  // Never from inside the other three.
  virtual void on_cancel(std::uint32_t stream) = 0;
};

// One HTTP/2 server connection that speaks gRPC (prior knowledge or ALPN h2), over nghttp2.
// Sans-I/O, like Http1Connection, and used the same way. Requests that are not gRPC (method,
// content-type) get the HTTP status that gRPC's specification names (415 for a foreign
// content-type).
//
// A large message is allocated in full when its prefix is here, and receive_space() then points
// into it as long as its DATA frame lasts: the kernel writes it where it stays.
//
// Flow control: windows are given back as bytes are consumed into messages. While more than
// unsent_bytes of answers wait, complete messages wait as well and no window is given back, so that
// a client cannot make us hold more than that and its windows. wants_read() is false only while the
// socket is what the answers wait for: the client's windows open by reading.
//
// A call may also be held back by itself: hold() leaves its window to run dry, and what is under
// way waits, counted as buffered_message_bytes, until let_go().
//
// Nothing but received(), received_eof(), sent(), take_output() and on_deadline() calls the
// handler. Handlers may answer any call from inside any of their functions.
class Http2Connection {
 public:
  Http2Connection(Http2Handler& handler, Pool& pool, ReadScratch& scratch,
                  const Http2Limits& limits, TimePoint now);
  ~Http2Connection();
  Http2Connection(const Http2Connection&) = delete;
  Http2Connection& operator=(const Http2Connection&) = delete;

  std::span<std::byte> receive_space();
  void received(std::size_t bytes, TimePoint now);
  void received_eof(TimePoint now);

  // Sends one message of a call. `body` is the message without its 5-byte prefix, already
  // compressed if `coding` says so (then the call's first message announces grpc-encoding). Owners
  // are taken over; small or ownerless segments are copied. Unknown streams are ignored.
  void send_message(std::uint32_t stream, Payload& body, MessageCoding coding, TimePoint now);
  // The call's messages may be compressed so, the first one or a later one: said before the first.
  void announce_coding(std::uint32_t stream, MessageCoding coding);
  // Ends a call: trailers with grpc-status and grpc-message (percent-encoded, UTF-8). Without a
  // message before it, a trailers-only answer. `extra` are further trailers, lower-case names.
  void finish(std::uint32_t stream, const Status& status, TimePoint now,
              std::span<const Header> extra = {});
  // No more messages of that call are reported, nor the end of them, until it is let go. The other
  // calls go on.
  void hold(std::uint32_t stream);
  // What waits is reported by the next of the functions that call the handler.
  void let_go(std::uint32_t stream);
  // Bytes of a call's messages that wait to be sent: a stream of answers stops producing above its
  // limit.
  std::size_t unsent_bytes(std::uint32_t stream) const;

  std::size_t output(iovec* pieces, std::size_t count) const;
  void sent(std::size_t bytes, TimePoint now);
  void take_output(Payload& output, TimePoint now);
  bool has_output() const;

  bool wants_read() const;
  bool wants_close() const;
  std::size_t open_streams() const;
  // GOAWAY; calls under way are finished, then wants_close().
  void drain(TimePoint now);

  TimePoint next_deadline() const;
  void on_deadline(TimePoint now);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace servolley::net
