#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/request.h"
#include "engine/routes.h"
#include "net/http1.h"

namespace servolley::engine {

class Engine;

// A complete call that is not hot, for the control routes.
struct ControlCall {
  std::uint64_t exchange = 0;
  std::string method;
  std::string target;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
};

// What the transport has to do; bits.
enum Attention : std::uint32_t {
  kTick = 1,     // hot requests wait for Engine::tick
  kCalls = 2,    // take_calls() has something
  kOutput = 4,   // take_output() has something that the kernel did not take
  kPause = 8,    // stop reading
  kResume = 16,  // go on reading
  kClose = 32,   // close the socket
};

// One client connection: joins the sans-I/O protocol to the engine on one side and to a socket on
// the other. Reading belongs to the transport; writing goes straight to the socket from here,
// because handing every answer to the event loop's writer costs more than the answer. Loop thread
// only.
class HttpConnection : public net::Http1Handler,
                       public std::enable_shared_from_this<HttpConnection> {
 public:
  // `control_only`: no call is hot, so that a metrics port cannot be inferred on.
  explicit HttpConnection(Engine& engine, bool control_only = false);
  ~HttpConnection() override;
  HttpConnection(const HttpConnection&) = delete;
  HttpConnection& operator=(const HttpConnection&) = delete;

  // `fd` is the connected socket, or -1 if all output must go through the transport (TLS).
  void opened(int fd);
  // The socket is gone: what is under way is cancelled. Before the descriptor is closed.
  void closed();

  std::span<std::byte> receive_space() { return protocol_.receive_space(); }
  std::uint32_t received(std::size_t bytes);
  std::uint32_t eof_received();
  std::uint32_t attend();
  std::uint32_t writable();

  std::vector<ControlCall> take_calls() { return std::exchange(calls_, {}); }
  // Everything unsent, with what keeps it alive. Until writable() nothing is sent from here.
  void take_output(Payload& output);

  // Answers a control call.
  std::uint32_t respond_control(std::uint64_t exchange, int status, std::string_view content_type,
                                std::string_view extra, std::string_view body);

  // --- for the engine ---
  void respond(std::uint64_t exchange, const net::ResponseHead& head, Payload& body, TimePoint now);
  void add_open(Request& request);
  void remove_open(Request& request);
  // Sends what the kernel takes.
  void flush(TimePoint now);
  bool needs_attention() const;
  void drain();
  void check_deadline(TimePoint now);
  bool is_open() const { return open_; }

  // Membership in the engine's lists.
  bool dirty = false;
  bool attention_requested = false;

 private:
  net::BodyPlan plan_body(const net::RequestHead& head) override;
  void on_request(net::HttpRequest&& request) override;
  void queue_control(const net::HttpRequest& request);

  Engine& engine_;
  const bool control_only_;
  net::Http1Connection protocol_;
  int fd_ = -1;
  bool open_ = false;
  bool failed_ = false;            // the socket refused to be written
  bool transport_writes_ = false;  // the transport holds output of ours
  bool reading_ = true;            // what the transport was last told
  bool ticks_ = false;             // this read brought inline work
  std::vector<ControlCall> calls_;
  Request* open_requests_ = nullptr;
};

}  // namespace servolley::engine
