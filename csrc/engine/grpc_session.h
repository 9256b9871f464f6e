#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string_view>

#include "engine/routes.h"
#include "engine/session.h"
#include "engine/stream_table.h"
#include "net/http2.h"

namespace servolley::engine {

class Connection;

// HTTP/2: gRPC. ModelInfer, ModelStreamInfer and Predict never leave the core; every other method
// is an affair of the control routes, which see its messages one by one.
class GrpcSession final : public Session, private net::Http2Handler {
 public:
  GrpcSession(Connection& connection, TimePoint now);

  std::span<std::byte> receive_space() override { return protocol_.receive_space(); }
  void received(std::size_t bytes, TimePoint now) override { protocol_.received(bytes, now); }
  void received_eof(TimePoint now) override { protocol_.received_eof(now); }
  std::size_t output(iovec* pieces, std::size_t count) const override {
    return protocol_.output(pieces, count);
  }
  void sent(std::size_t bytes, TimePoint now) override { protocol_.sent(bytes, now); }
  void take_output(Payload& output, TimePoint now) override { protocol_.take_output(output, now); }
  bool has_output() const override { return protocol_.has_output(); }
  bool wants_read() const override { return protocol_.wants_read(); }
  bool wants_close() const override { return protocol_.wants_close(); }
  void drain(TimePoint now) override { protocol_.drain(now); }
  TimePoint next_deadline() const override {
    return std::min(protocol_.next_deadline(), earliest_deadline_);
  }
  void on_deadline(TimePoint now) override;

  Status answer(Request& request, std::span<const codec::OutputView> outputs,
                TimePoint now) override;
  void fail(Request& request, const Status& status, TimePoint now) override;
  void reply(std::uint64_t exchange, const ControlReply& reply, TimePoint now) override;
  void reply_message(std::uint64_t exchange, std::string_view message, TimePoint now) override;
  void reply_end(std::uint64_t exchange, const Status& status, TimePoint now) override;

 private:
  enum class Method : std::uint8_t { kModelInfer, kModelStreamInfer, kPredict, kControl };

  // Answers of one ModelStreamInfer call on their way out: in request order, whatever order they
  // come in.
  struct Stream {
    struct Slot {
      bool ready = false;
      Payload message;
    };
    std::uint32_t first = 0;  // sequence of slots.front()
    std::deque<Slot> slots;
    bool half_closed = false;
    bool held = false;  // too many wait: nothing more of the call is reported
  };

  struct Call {
    Method method = Method::kControl;
    bool has_message = false;
    net::MessageCoding coding = net::MessageCoding::kIdentity;  // of large answers
    Request* request = nullptr;  // a unary call's, while it is admitted
    TimePoint deadline = kNever;
    std::unique_ptr<Stream> stream;
  };

  // net::Http2Handler
  Status on_call(std::uint32_t stream, const net::GrpcHead& head,
                 std::uint64_t* message_limit) override;
  void on_message(std::uint32_t stream, net::GrpcMessage&& message) override;
  void on_half_close(std::uint32_t stream) override;
  void on_cancel(std::uint32_t stream) override;

  void on_control_message(std::uint32_t stream, const net::GrpcMessage& message, TimePoint now);
  void infer(std::uint32_t stream, Call& call, net::GrpcMessage&& message, TimePoint now);
  Status read_message(net::GrpcMessage& message);
  // Sends one message of a call, compressed if that was agreed on and is worth it.
  void send(std::uint32_t stream, Payload& message, TimePoint now);
  Status route_oip(const net::GrpcMessage& message, HotRoute& route) const;
  Status route_tfs(const net::GrpcMessage& message, HotRoute& route) const;
  void end(std::uint32_t stream, const Status& status, TimePoint now);
  // Nobody waits for the answers to a call's requests any more.
  void drop_requests(std::uint32_t stream);
  // Calls past their deadline of which no request can say so: the client has sent nothing, or
  // streams.
  void expire_calls(TimePoint now);
  void stream_ready(std::uint32_t stream, Call& call, std::uint32_t sequence, Payload& message,
                    TimePoint now);
  void stream_error(std::uint32_t stream, Call& call, std::uint32_t sequence, const Status& status,
                    std::string_view model, std::string_view version, std::string_view id,
                    TimePoint now);

  Connection& connection_;
  StreamTable<Call> calls_;
  TimePoint earliest_deadline_ = kNever;  // of the hot calls; a lower bound
  net::Http2Connection protocol_;
};

}  // namespace servolley::engine
