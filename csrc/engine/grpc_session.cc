#include "engine/grpc_session.h"

#include <algorithm>
#include <charconv>

#include "codec/compression.h"
#include "codec/oip_proto.h"
#include "codec/tfs_proto.h"
#include "engine/connection.h"
#include "engine/engine.h"

namespace servolley::engine {
namespace {

constexpr std::string_view kModelInfer = "/inference.GRPCInferenceService/ModelInfer";
constexpr std::string_view kModelStreamInfer = "/inference.GRPCInferenceService/ModelStreamInfer";
constexpr std::string_view kPredict = "/tensorflow.serving.PredictionService/Predict";
// Requests of one stream that wait for their answers: then it is held back, until half are
// answered.
constexpr std::size_t kStreamRequests = 1024;
// Of a smaller message compression saves less than a packet and costs more than its answer.
constexpr std::size_t kLeastCompressedBytes = 1024;

std::uint32_t stream_of(std::uint64_t exchange) { return static_cast<std::uint32_t>(exchange); }

codec::Coding coding_of(net::MessageCoding coding) {
  return coding == net::MessageCoding::kGzip ? codec::Coding::kGzip : codec::Coding::kDeflate;
}

// False, and the message is as it was: there was no memory, or nothing to be gained.
bool compress(codec::Coding coding, int level, Payload& message, Pool& pool) {
  auto packed = codec::deflate(coding, message, pool, level);
  if (!packed || packed->size >= message.size()) return false;
  const std::byte* const bytes = packed->owner.data();
  message.clear();
  message.add(std::move(packed->owner), bytes, packed->size);
  return true;
}

}  // namespace

GrpcSession::GrpcSession(Connection& connection, TimePoint now)
    : connection_(connection),
      protocol_(*this, connection.engine().pool(), connection.engine().scratch(),
                connection.engine().options().http2, now) {}

Status GrpcSession::on_call(std::uint32_t stream, const net::GrpcHead& head, std::uint64_t*) {
  Method method = Method::kControl;
  if (!connection_.control_only()) {
    if (head.path == kModelInfer) {
      method = Method::kModelInfer;
    } else if (head.path == kPredict) {
      method = Method::kPredict;
    } else if (head.path == kModelStreamInfer) {
      method = Method::kModelStreamInfer;
    }
  }
  Call& call = calls_.insert(stream);
  call.method = method;
  if (connection_.engine().options().grpc_compression_level > 0 &&
      (head.accepts_gzip || head.accepts_deflate)) {
    call.coding = head.accepts_gzip ? net::MessageCoding::kGzip : net::MessageCoding::kDeflate;
    protocol_.announce_coding(stream, call.coding);
  }
  if (head.timeout_us && method != Method::kControl) {
    call.deadline = deadline_after(Clock::now(), *head.timeout_us);
    earliest_deadline_ = std::min(earliest_deadline_, call.deadline);
  }
  if (method == Method::kModelStreamInfer) call.stream = std::make_unique<Stream>();
  if (method == Method::kControl) {
    ControlCall open{.kind = ControlKind::kGrpcOpen,
                     .exchange = stream,
                     .method = "POST",
                     .target = std::string(head.path),
                     .headers = {},
                     .body = {},
                     .timeout_us = head.timeout_us};
    for (const net::Header& header : head.metadata) {
      open.headers.emplace_back(header.name, header.value);
    }
    connection_.queue_control(std::move(open));
  }
  return {};
}

void GrpcSession::on_message(std::uint32_t stream, net::GrpcMessage&& message) {
  Call* call = calls_.find(stream);
  if (!call) return;
  const TimePoint now = Clock::now();
  if (call->has_message &&
      (call->method == Method::kModelInfer || call->method == Method::kPredict)) {
    if (call->request) drop_requests(stream);
    return end(stream, Status(Code::kUnimplemented, "a unary call has one message"), now);
  }
  call->has_message = true;
  if (Status status = read_message(message); !status.ok()) return end(stream, status, now);
  if (call->method == Method::kControl) return on_control_message(stream, message, now);
  infer(stream, *call, std::move(message), now);
}

Status GrpcSession::read_message(net::GrpcMessage& message) {
  if (message.coding == net::MessageCoding::kIdentity) return {};
  Engine& engine = connection_.engine();
  auto inflated = codec::inflate(coding_of(message.coding), message.bytes,
                                 engine.options().http2.message_bytes, engine.pool());
  if (!inflated) return std::move(inflated).error();
  message.bytes = {inflated->owner.data(), inflated->size};
  message.owner = std::move(inflated->owner);
  message.coding = net::MessageCoding::kIdentity;
  return {};
}

void GrpcSession::send(std::uint32_t stream, Payload& message, TimePoint now) {
  const Call* const call = calls_.find(stream);
  auto coding = call ? call->coding : net::MessageCoding::kIdentity;
  if (coding != net::MessageCoding::kIdentity) {
    Engine& engine = connection_.engine();
    const int level = engine.options().grpc_compression_level;
    if (message.size() < kLeastCompressedBytes ||
        !compress(coding_of(coding), level, message, engine.pool())) {
      coding = net::MessageCoding::kIdentity;
    }
  }
  protocol_.send_message(stream, message, coding, now);
}

void GrpcSession::on_control_message(std::uint32_t stream, const net::GrpcMessage& message,
                                     TimePoint) {
  connection_.queue_control(
      {.kind = ControlKind::kGrpcMessage,
       .exchange = stream,
       .method = {},
       .target = {},
       .headers = {},
       .body =
           std::string(reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size())});
}

Status GrpcSession::route_oip(const net::GrpcMessage& message, HotRoute& route) const {
  const auto head = codec::read_oip_head(message.bytes);
  if (!head) return head.error();
  route.dialect = Dialect::kOipGrpc;
  route.model = head->model;
  if (head->version.empty()) return {};
  std::int64_t version = 0;
  const char* end = head->version.data() + head->version.size();
  const auto [stop, error] = std::from_chars(head->version.data(), end, version);
  if (error != std::errc() || stop != end || version < 0) {
    return invalid_argument("model_version must be a decimal number or empty");
  }
  route.version = version;
  return {};
}

Status GrpcSession::route_tfs(const net::GrpcMessage& message, HotRoute& route) const {
  const auto head = codec::read_tfs_head(message.bytes);
  if (!head) return head.error();
  route.dialect = Dialect::kTfsGrpc;
  route.model = head->model;
  route.version = head->version;
  route.label = head->label;
  return {};
}

void GrpcSession::infer(std::uint32_t stream, Call& call, net::GrpcMessage&& message,
                        TimePoint now) {
  Engine& engine = connection_.engine();
  std::uint32_t sequence = 0;
  if (call.stream) {
    Stream& state = *call.stream;
    sequence = state.first + static_cast<std::uint32_t>(state.slots.size());
    state.slots.emplace_back();
    if (state.slots.size() == kStreamRequests) {
      state.held = true;
      protocol_.hold(stream);
    }
  }
  HotRoute route;
  Status status =
      call.method == Method::kPredict ? route_tfs(message, route) : route_oip(message, route);
  Request* request = nullptr;
  std::string id;  // only a stream's errors name it
  if (call.stream) {
    if (const auto head = codec::read_oip_head(message.bytes)) id = head->id;
  }
  if (status.ok()) {
    auto begun = engine.begin(route, now);
    if (begun) {
      request = *begun;
      request->exchange = stream;
      request->sequence = sequence;
      request->deadline = call.deadline;
      request->body = std::move(message.owner);
      const codec::DecodeContext context = engine.decode_context(*request->servable);
      status = call.method == Method::kPredict
                   ? codec::decode_tfs_proto(message.bytes, context, request->infer)
                   : codec::decode_oip_proto(message.bytes, context, request->infer);
      status = engine.submit(*request, connection_, std::move(status), now);
    } else {
      status = std::move(begun).error();
    }
  }
  if (status.ok()) {
    if (!call.stream) call.request = request;
    return;
  }
  if (call.stream) {
    const std::string version = route.version ? std::to_string(*route.version) : "";
    return stream_error(stream, call, sequence, status, route.model, version, id, now);
  }
  end(stream, status, now);
}

void GrpcSession::on_half_close(std::uint32_t stream) {
  Call* call = calls_.find(stream);
  if (!call) return;
  if (call->method == Method::kControl) {
    connection_.queue_control({.kind = ControlKind::kGrpcHalfClose,
                               .exchange = stream,
                               .method = {},
                               .target = {},
                               .headers = {},
                               .body = {}});
  } else if (call->stream) {
    call->stream->half_closed = true;
    if (call->stream->slots.empty()) end(stream, {}, Clock::now());
  } else if (!call->has_message) {
    end(stream, Status(Code::kUnimplemented, "a unary call needs one message"), Clock::now());
  }
}

void GrpcSession::on_cancel(std::uint32_t stream) {
  Call* call = calls_.find(stream);
  if (!call) return;
  if (call->method == Method::kControl) {
    connection_.queue_control({.kind = ControlKind::kGrpcCancel,
                               .exchange = stream,
                               .method = {},
                               .target = {},
                               .headers = {},
                               .body = {}});
  } else {
    drop_requests(stream);
  }
  calls_.erase(stream);
}

void GrpcSession::drop_requests(std::uint32_t stream) {
  const Call* const call = calls_.find(stream);
  if (!call) return;
  const auto drop = [this](Request& request) {
    connection_.remove_open(request);
    connection_.engine().cancel(request);
  };
  if (call->request) return drop(*call->request);
  if (!call->stream || call->stream->slots.empty()) return;
  for (Request* request = connection_.open_requests(); request;) {
    Request* const following = request->open_next;
    if (request->exchange == stream) drop(*request);
    request = following;
  }
}

void GrpcSession::on_deadline(TimePoint now) {
  protocol_.on_deadline(now);
  if (earliest_deadline_ <= now) expire_calls(now);
}

void GrpcSession::expire_calls(TimePoint now) {
  earliest_deadline_ = kNever;
  std::vector<std::uint32_t> overdue;
  calls_.each([&](std::uint32_t stream, const Call& call) {
    if (call.deadline > now) {
      earliest_deadline_ = std::min(earliest_deadline_, call.deadline);
    } else if (!call.request) {
      overdue.push_back(stream);
    }
  });
  for (const std::uint32_t stream : overdue) {
    end(stream, Status(Code::kDeadlineExceeded, "the call's deadline has passed"), now);
  }
}

void GrpcSession::end(std::uint32_t stream, const Status& status, TimePoint now) {
  // A stream may end before its requests do.
  if (const Call* call = calls_.find(stream); call && call->stream) drop_requests(stream);
  calls_.erase(stream);
  connection_.engine().count_response(status.ok() ? 200 : http_status(status.code()));
  protocol_.finish(stream, status, now);
}

Status GrpcSession::answer(Request& request, std::span<const codec::OutputView> outputs,
                           TimePoint now) {
  const std::uint32_t stream = stream_of(request.exchange);
  Engine& engine = connection_.engine();
  const codec::EncodeContext context = engine.encode_context(*request.servable);
  Payload& payload = engine.answer_payload();
  if (request.dialect == Dialect::kTfsGrpc) {
    SERVOLLEY_TRY(codec::encode_tfs_proto(request.infer, outputs, context,
                                          engine.options().tensor_content, payload));
  } else {
    Call* call = calls_.find(stream);
    const bool streamed = call && call->stream;
    SERVOLLEY_TRY(codec::encode_oip_proto(request.infer, outputs, context, streamed, payload));
    if (streamed) {
      SERVOLLEY_TRY(codec::prepend_stream_envelope(payload, engine.pool()));
      stream_ready(stream, *call, request.sequence, payload, now);
      return {};
    }
  }
  send(stream, payload, now);
  end(stream, {}, now);
  return {};
}

void GrpcSession::fail(Request& request, const Status& status, TimePoint now) {
  const std::uint32_t stream = stream_of(request.exchange);
  Call* call = calls_.find(stream);
  if (!call || !call->stream) return end(stream, status, now);
  stream_error(stream, *call, request.sequence, status, request.servable->name(),
               request.servable->version_text(), request.infer.id, now);
}

void GrpcSession::stream_ready(std::uint32_t stream, Call& call, std::uint32_t sequence,
                               Payload& message, TimePoint now) {
  Stream::Slot& slot = call.stream->slots[sequence - call.stream->first];
  slot.ready = true;
  for (Segment& segment : message.segments()) {
    slot.message.add(std::move(segment.owner), segment.data, segment.size);
  }
  message.clear();
  // Sending may deliver messages that waited for room, and these may end calls: the call is looked
  // up anew each time.
  for (Call* now_call = &call; now_call && now_call->stream; now_call = calls_.find(stream)) {
    Stream& state = *now_call->stream;
    if (state.slots.empty() || !state.slots.front().ready) {
      if (state.half_closed && state.slots.empty()) end(stream, {}, now);
      return;
    }
    Payload ready = std::move(state.slots.front().message);
    state.slots.pop_front();
    ++state.first;
    if (state.held && state.slots.size() <= kStreamRequests / 2) {
      state.held = false;
      protocol_.let_go(stream);
    }
    send(stream, ready, now);
  }
}

void GrpcSession::stream_error(std::uint32_t stream, Call& call, std::uint32_t sequence,
                               const Status& status, std::string_view model,
                               std::string_view version, std::string_view id, TimePoint now) {
  Payload message;
  const Status encoded = codec::encode_oip_stream_error(status.message(), model, version, id,
                                                        connection_.engine().pool(), message);
  if (!encoded.ok()) return end(stream, encoded, now);
  stream_ready(stream, call, sequence, message, now);
}

void GrpcSession::reply(std::uint64_t exchange, const ControlReply&, TimePoint now) {
  // An HTTP answer to a gRPC call is a mistake of the control routes; the client must not wait for
  // ever.
  end(stream_of(exchange), internal_error("no answer"), now);
}

void GrpcSession::reply_message(std::uint64_t exchange, std::string_view message, TimePoint now) {
  Payload payload;
  payload.add_static(message);
  send(stream_of(exchange), payload, now);
}

void GrpcSession::reply_end(std::uint64_t exchange, const Status& status, TimePoint now) {
  if (calls_.find(stream_of(exchange))) end(stream_of(exchange), status, now);
}

}  // namespace servolley::engine
