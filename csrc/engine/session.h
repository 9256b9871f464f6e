#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "codec/infer.h"
#include "engine/request.h"
#include "memory/payload.h"

namespace servolley::engine {

// What reaches the control routes: a whole HTTP call, or one event of a gRPC call.
enum class ControlKind : std::uint8_t {
  kHttp,
  kGrpcOpen,       // target and headers (the metadata) are set
  kGrpcMessage,    // body is set
  kGrpcHalfClose,  // the client will send no more messages
  kGrpcCancel,     // nobody waits for an answer any more
};

struct ControlCall {
  ControlKind kind = ControlKind::kHttp;
  std::uint64_t exchange = 0;
  std::string method;
  std::string target;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;
  // Of a gRPC call, at its opening: how long the client waits for its end.
  std::optional<std::uint64_t> timeout_us = std::nullopt;
};

// An answer of the control routes to an HTTP call.
struct ControlReply {
  int status = 200;
  std::string_view content_type;
  std::string_view extra_headers;  // rendered lines
  std::string_view body;
};

// One protocol on one connection: turns its bytes into requests for the engine and the engine's
// results into its bytes. Loop thread only. The members of the first group are those of the
// sans-I/O connections of net.
class Session {
 public:
  virtual ~Session() = default;

  virtual std::span<std::byte> receive_space() = 0;
  virtual void received(std::size_t bytes, TimePoint now) = 0;
  virtual void received_eof(TimePoint now) = 0;
  virtual std::size_t output(iovec* pieces, std::size_t count) const = 0;
  virtual void sent(std::size_t bytes, TimePoint now) = 0;
  virtual void take_output(Payload& output, TimePoint now) = 0;
  virtual bool has_output() const = 0;
  virtual bool wants_read() const = 0;
  virtual bool wants_close() const = 0;
  virtual void drain(TimePoint now) = 0;
  virtual TimePoint next_deadline() const = 0;
  virtual void on_deadline(TimePoint now) = 0;

  // Answers a request with its rows of every output of the signature. An error means that nothing
  // was answered: fail() follows.
  virtual Status answer(Request& request, std::span<const codec::OutputView> outputs,
                        TimePoint now) = 0;
  virtual void fail(Request& request, const Status& status, TimePoint now) = 0;

  virtual void reply(std::uint64_t exchange, const ControlReply& reply, TimePoint now) = 0;
  // Only gRPC calls have messages and an end of their own.
  virtual void reply_message(std::uint64_t, std::string_view, TimePoint) {}
  virtual void reply_end(std::uint64_t, const Status&, TimePoint) {}
};

}  // namespace servolley::engine
