#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "engine/connection.h"
#include "engine/lease.h"
#include "engine/session.h"

namespace servolley::engine {

// What a call from inside the process came to.
struct InnerResult {
  std::uint64_t exchange = 0;
  Status status;
  std::string response;  // a PredictResponse, if status is OK
};

// Calls from inside the process: control routes whose answer takes a model (classify and regress)
// run it through the same queues and batches as everybody. A call is a PredictRequest as it would
// have come over gRPC, so that decoding, checks and limits are the hot path's. Results wait to be
// taken; has_output() says that there are some.
class InnerSession final : public Session {
 public:
  explicit InnerSession(Connection& connection) : connection_(connection) {}

  // Runs what was chosen, whatever model the message names. `timeout_us`: 0 = none. The result has
  // `exchange` as its name.
  void predict(std::uint64_t exchange, std::string_view message, const Lease& lease,
               std::uint64_t timeout_us, TimePoint now);
  // Nobody waits for the result any more. Without effect once it waits to be taken.
  void cancel(std::uint64_t exchange);
  std::vector<InnerResult> take_results() { return std::exchange(results_, {}); }

  // There are no bytes.
  std::span<std::byte> receive_space() override { return {}; }
  void received(std::size_t, TimePoint) override {}
  void received_eof(TimePoint) override {}
  std::size_t output(iovec*, std::size_t) const override { return 0; }
  void sent(std::size_t, TimePoint) override {}
  void take_output(Payload&, TimePoint) override {}
  bool has_output() const override { return !results_.empty(); }
  bool wants_read() const override { return true; }
  bool wants_close() const override { return false; }
  void drain(TimePoint) override {}
  TimePoint next_deadline() const override { return kNever; }
  void on_deadline(TimePoint) override {}

  Status answer(Request& request, std::span<const codec::OutputView> outputs,
                TimePoint now) override;
  void fail(Request& request, const Status& status, TimePoint now) override;
  void reply(std::uint64_t, const ControlReply&, TimePoint) override {}

 private:
  Status begin(std::uint64_t exchange, std::string_view message, const Lease& lease,
               std::uint64_t timeout_us, TimePoint now);

  Connection& connection_;
  std::unordered_map<std::uint64_t, Request*> open_;
  std::vector<InnerResult> results_;
};

// A connection without a socket. Loop thread only.
class InnerConnection : public Connection {
 public:
  explicit InnerConnection(Engine& engine);

  // Attention bits, like those of a read; kOutput: take_results() has something.
  std::uint32_t predict(std::uint64_t exchange, std::string_view message, const Lease& lease,
                        std::uint64_t timeout_us);
  void cancel(std::uint64_t exchange) { calls_.cancel(exchange); }
  std::vector<InnerResult> take_results() { return calls_.take_results(); }

 private:
  InnerSession& calls_;
};

}  // namespace servolley::engine
