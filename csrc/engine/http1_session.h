#pragma once

#include <string>

#include "engine/routes.h"
#include "engine/session.h"
#include "net/http1.h"

namespace servolley::engine {

class Connection;

// HTTP/1.1: the REST routes of both dialects.
class Http1Session final : public Session, private net::Http1Handler {
 public:
  Http1Session(Connection& connection, TimePoint now);

  std::span<std::byte> receive_space() override { return protocol_.receive_space(); }
  void received(std::size_t bytes, TimePoint now) override;
  void received_eof(TimePoint now) override { protocol_.received_eof(now); }
  std::size_t output(iovec* pieces, std::size_t count) const override {
    return protocol_.output(pieces, count);
  }
  void sent(std::size_t bytes, TimePoint now) override { protocol_.sent(bytes, now); }
  void take_output(Payload& output, TimePoint now) override { protocol_.take_output(output, now); }
  bool has_output() const override { return protocol_.has_output(); }
  bool wants_read() const override { return protocol_.wants_read(); }
  bool wants_close() const override { return protocol_.wants_close(); }
  void drain(TimePoint) override { protocol_.drain(); }
  TimePoint next_deadline() const override { return protocol_.next_deadline(); }
  void on_deadline(TimePoint now) override { protocol_.on_deadline(now); }

  Status answer(Request& request, std::span<const codec::OutputView> outputs,
                TimePoint now) override;
  void fail(Request& request, const Status& status, TimePoint now) override;
  void reply(std::uint64_t exchange, const ControlReply& reply, TimePoint now) override;

 private:
  net::BodyPlan plan_body(const net::RequestHead& head) override;
  void on_request(net::HttpRequest&& call) override;
  void infer(net::HttpRequest&& call, const HotRoute& route, TimePoint now);
  Status decode(Request& request, net::HttpRequest& call);
  void queue_control(const net::HttpRequest& call);
  void respond(std::uint64_t exchange, const net::ResponseHead& head, Payload& body, TimePoint now);
  void respond_error(std::uint64_t exchange, const Status& status, TimePoint now);

  Connection& connection_;
  net::Http1Connection protocol_;
};

}  // namespace servolley::engine
