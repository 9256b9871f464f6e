#include "engine/inner_session.h"

#include <memory>
#include <span>

#include "codec/tfs_proto.h"
#include "engine/engine.h"

namespace servolley::engine {

void InnerSession::predict(std::uint64_t exchange, std::string_view message, const Lease& lease,
                           std::uint64_t timeout_us, TimePoint now) {
  Status status = begin(exchange, message, lease, timeout_us, now);
  if (!status.ok()) results_.push_back({exchange, std::move(status), {}});
}

Status InnerSession::begin(std::uint64_t exchange, std::string_view message, const Lease& lease,
                           std::uint64_t timeout_us, TimePoint now) {
  const std::span bytes{reinterpret_cast<const std::byte*>(message.data()), message.size()};
  if (!lease.target().servable) return released();
  Engine& engine = connection_.engine();
  Request& request = *engine.begin_on(lease.target(), lease.dialect(), now);
  request.exchange = exchange;
  if (timeout_us > 0) request.deadline = deadline_after(now, timeout_us);
  // The message is the caller's: with an empty body the engine copies what lies in it.
  const codec::DecodeContext context = engine.decode_context(*request.servable);
  Status status = codec::decode_tfs_proto(bytes, context, request.infer);
  SERVOLLEY_TRY(engine.submit(request, connection_, std::move(status), now));
  open_.emplace(exchange, &request);
  return {};
}

void InnerSession::cancel(std::uint64_t exchange) {
  const auto at = open_.find(exchange);
  if (at == open_.end()) return;
  Request& request = *at->second;
  open_.erase(at);
  connection_.remove_open(request);
  connection_.engine().cancel(request);
}

Status InnerSession::answer(Request& request, std::span<const codec::OutputView> outputs,
                            TimePoint) {
  Engine& engine = connection_.engine();
  Payload& payload = engine.answer_payload();
  const codec::EncodeContext context = engine.encode_context(*request.servable);
  SERVOLLEY_TRY(codec::encode_tfs_proto(request.infer, outputs, context,
                                        /*tensor_content=*/false, payload));
  open_.erase(request.exchange);
  InnerResult& result = results_.emplace_back();
  result.exchange = request.exchange;
  result.response.reserve(payload.size());
  for (const Segment& segment : payload.segments()) {
    result.response.append(reinterpret_cast<const char*>(segment.data), segment.size);
  }
  return {};
}

void InnerSession::fail(Request& request, const Status& status, TimePoint) {
  open_.erase(request.exchange);
  results_.push_back({request.exchange, status, {}});
}

InnerConnection::InnerConnection(Engine& engine)
    : Connection(engine, std::make_unique<InnerSession>(*this)),
      calls_(static_cast<InnerSession&>(*session())) {}

std::uint32_t InnerConnection::predict(std::uint64_t exchange, std::string_view message,
                                       const Lease& lease, std::uint64_t timeout_us) {
  const TimePoint now = Clock::now();
  calls_.predict(exchange, message, lease, timeout_us, now);
  // This is no client that waits alone for its answer: the tick is the loop's affair.
  (void)engine().talks_alone(*this);
  return attend();
}

}  // namespace servolley::engine
