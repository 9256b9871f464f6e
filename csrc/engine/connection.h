#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "engine/session.h"

namespace servolley::engine {

class Engine;

// What the transport has to do; bits.
enum Attention : std::uint32_t {
  kTick = 1,     // hot requests wait for Engine::tick
  kCalls = 2,    // take_calls() has something
  kOutput = 4,   // take_output() has something that the kernel did not take
  kPause = 8,    // stop reading
  kResume = 16,  // go on reading
  kClose = 32,   // close the socket
};

// One client connection: joins a session to the engine on one side and to a socket on the other.
// TLS's handshake (ALPN) or the first bytes say whether it speaks HTTP/1.1 or HTTP/2, so every port
// takes both. Reading belongs to the transport; writing goes straight to the socket from here,
// because handing every answer to the event loop's writer costs more than the answer. Loop thread
// only.
class Connection : public std::enable_shared_from_this<Connection> {
 public:
  // `control_only`: no call is hot, so that a metrics port cannot be inferred on.
  explicit Connection(Engine& engine, bool control_only = false);
  virtual ~Connection();
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  // `fd` is the connected socket, or -1 if all output must go through the transport (TLS). `alpn`
  // is the protocol that was agreed on, "h2" or "http/1.1": bytes of the other one are errors of
  // that protocol then. Anything else leaves it to the first bytes.
  void opened(int fd, std::string_view alpn = {});
  // The socket is gone: what is under way is cancelled. Before the descriptor is closed.
  void closed();

  std::span<std::byte> receive_space();
  std::uint32_t received(std::size_t bytes);
  std::uint32_t eof_received();
  std::uint32_t attend();
  int descriptor() const { return fd_; }  // -1: none
  std::uint32_t writable();

  std::vector<ControlCall> take_calls() { return std::exchange(calls_, {}); }
  // Everything unsent, with what keeps it alive. Until writable() nothing is sent from here.
  void take_output(Payload& output);

  // Answers of the control routes.
  std::uint32_t reply(std::uint64_t exchange, const ControlReply& reply);
  std::uint32_t reply_message(std::uint64_t exchange, std::string_view message);
  std::uint32_t reply_end(std::uint64_t exchange, const Status& status);

  // --- for the session ---
  Engine& engine() { return engine_; }
  bool control_only() const { return control_only_; }
  // Whether there is a client: not so for calls from inside the process.
  bool from_outside() const { return from_outside_; }
  void queue_control(ControlCall call) { calls_.push_back(std::move(call)); }
  // The engine has work that needs a tick.
  void request_tick() { ticks_ = true; }

  // --- for the engine ---
  Session* session() { return session_.get(); }
  void add_open(Request& request);
  void remove_open(Request& request);
  Request* open_requests() { return open_requests_; }
  // Sends what the kernel takes.
  void flush(TimePoint now);
  bool needs_attention() const;
  void drain();
  void check_deadline(TimePoint now);

  // Membership in the engine's lists.
  bool dirty = false;
  bool attention_requested = false;

 protected:
  // Not of a client's: `session` is what the calls come from.
  Connection(Engine& engine, std::unique_ptr<Session> session);

 private:
  // As much of HTTP/2's preface as tells it from an HTTP/1 method.
  static constexpr std::size_t kSniffedBytes = 3;

  enum class Protocol : std::uint8_t { kUnknown, kHttp1, kHttp2 };

  bool choose_session(std::size_t& bytes, TimePoint now);

  Engine& engine_;
  const bool control_only_;
  const bool from_outside_;
  std::unique_ptr<Session> session_;  // empty until the protocol is known
  std::array<std::byte, kSniffedBytes> sniffed_{};
  std::size_t sniffed_size_ = 0;
  TimePoint silent_since_{};  // while there is no session
  int fd_ = -1;
  Protocol agreed_ = Protocol::kUnknown;
  bool open_ = false;
  bool draining_ = false;
  bool finished_ = false;          // closed by us before there was a session
  bool failed_ = false;            // the socket refused to be written
  bool transport_writes_ = false;  // the transport holds output of ours
  bool reading_ = true;            // what the transport was last told
  bool ticks_ = false;             // this read brought work for a tick
  std::vector<ControlCall> calls_;
  Request* open_requests_ = nullptr;
};

}  // namespace servolley::engine
