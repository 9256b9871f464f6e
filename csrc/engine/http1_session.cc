#include "engine/http1_session.h"

#include <charconv>
#include <optional>

#include "codec/compression.h"
#include "codec/oip_json.h"
#include "codec/tfs_json.h"
#include "engine/connection.h"
#include "engine/engine.h"

namespace servolley::engine {
namespace {

constexpr std::string_view kJsonLength = "inference-header-content-length";
// A full queue or a passing overload: come back soon.
constexpr std::string_view kRetryAfter = "Retry-After: 1\r\n";
// What we would have read instead.
constexpr std::string_view kReadableCodings = "Accept-Encoding: gzip, deflate\r\n";

// Where the body has to be aligned behind its JSON part; whether the number is valid is decided
// when the call is complete.
std::size_t json_prefix(const net::RequestHead& head) {
  const net::Header* header = head.find(kJsonLength);
  if (!header) return 0;
  std::size_t value = 0;
  const auto* end = header->value.data() + header->value.size();
  const auto [stop, error] = std::from_chars(header->value.data(), end, value);
  return error == std::errc() && stop == end ? value : 0;
}

// Inference-Header-Content-Length: a plain decimal number, at most once.
Result<std::optional<std::uint64_t>> json_length(const net::RequestHead& head) {
  std::optional<std::uint64_t> length;
  for (const net::Header& header : head.headers) {
    if (header.name != kJsonLength) continue;
    std::uint64_t value = 0;
    const char* end = header.value.data() + header.value.size();
    const auto [stop, error] = std::from_chars(header.value.data(), end, value);
    if (length || error != std::errc() || stop != end) {
      return invalid_argument("Inference-Header-Content-Length must be one decimal number");
    }
    length = value;
  }
  return length;
}

}  // namespace

Http1Session::Http1Session(Connection& connection, TimePoint now)
    : connection_(connection),
      protocol_(*this, connection.engine().pool(), connection.engine().scratch(),
                connection.engine().options().http, now) {}

void Http1Session::received(std::size_t bytes, TimePoint now) { protocol_.received(bytes, now); }

net::BodyPlan Http1Session::plan_body(const net::RequestHead& head) {
  return {.refusal = {},
          .limit_bytes = connection_.engine().options().body_bytes,
          .align_at = json_prefix(head)};
}

void Http1Session::on_request(net::HttpRequest&& call) {
  if (connection_.control_only()) return queue_control(call);
  HotRoute route;
  Status error;
  const TimePoint now = Clock::now();
  switch (match_hot_route(call.head.method, call.head.target, connection_.engine().path_scratch(),
                          route, error)) {
    case RouteMatch::kHot:
      return infer(std::move(call), route, now);
    case RouteMatch::kInvalid:
      return respond_error(call.exchange, error, now);
    case RouteMatch::kControl:
      return queue_control(call);
  }
}

void Http1Session::infer(net::HttpRequest&& call, const HotRoute& route, TimePoint now) {
  Engine& engine = connection_.engine();
  auto begun = engine.begin(route, now);
  if (!begun) return respond_error(call.exchange, begun.error(), now);
  Request& request = **begun;
  request.exchange = call.exchange;
  if (route.dialect == Dialect::kTfsHttp && engine.options().request_timeout_us > 0) {
    request.deadline = deadline_after(now, engine.options().request_timeout_us);
  }
  const std::uint64_t exchange = call.exchange;
  Status status = decode(request, call);
  status = engine.submit(request, connection_, std::move(status), now);
  if (!status.ok()) respond_error(exchange, in_dialect(status, route.dialect), now);
}

Status Http1Session::decode(Request& request, net::HttpRequest& call) {
  Engine& engine = connection_.engine();
  if (const net::Header* accepted = call.head.find("accept-encoding");
      accepted && request.dialect == Dialect::kOipHttp) {
    request.response_coding = codec::choose_response_coding(accepted->value);
  }
  std::span<const std::byte> body = call.body;
  request.body = std::move(call.body_owner);
  if (const net::Header* encoding = call.head.find("content-encoding")) {
    auto coding = codec::parse_content_encoding(encoding->value);
    if (!coding) return std::move(coding).error();
    if (*coding != codec::Coding::kIdentity) {
      auto inflated = codec::inflate(*coding, body, engine.options().body_bytes, engine.pool());
      if (!inflated) return std::move(inflated).error();
      body = {inflated->owner.data(), inflated->size};
      request.body = std::move(inflated->owner);
    }
  }
  const codec::DecodeContext context = engine.decode_context(*request.servable);
  if (request.dialect == Dialect::kTfsHttp) {
    return codec::decode_tfs_predict(body, context, request.infer);
  }
  const auto length = json_length(call.head);
  if (!length) return length.error();
  return codec::decode_oip_json(body, *length, context, request.infer);
}

void Http1Session::queue_control(const net::HttpRequest& call) {
  ControlCall control{
      .kind = ControlKind::kHttp,
      .exchange = call.exchange,
      .method = std::string(call.head.method),
      .target = std::string(call.head.target),
      .headers = {},
      .body = std::string(reinterpret_cast<const char*>(call.body.data()), call.body.size())};
  for (const net::Header& header : call.head.headers) {
    control.headers.emplace_back(header.name, header.value);
  }
  connection_.queue_control(std::move(control));
}

Status Http1Session::answer(Request& request, std::span<const codec::OutputView> outputs,
                            TimePoint now) {
  Engine& engine = connection_.engine();
  const codec::EncodeContext context = engine.encode_context(*request.servable);
  Payload& payload = engine.answer_payload();
  net::ResponseHead head;
  head.content_type = "application/json";
  if (request.dialect == Dialect::kTfsHttp) {
    SERVOLLEY_TRY(codec::encode_tfs_predict(request.infer, outputs, context, payload));
  } else {
    const auto info = codec::encode_oip_json(request.infer, outputs, context, payload);
    if (!info) return info.error();
    head.inference_json_length = info->json_length;
    if (info->json_length > 0) head.content_type = "application/octet-stream";
    if (request.response_coding != codec::Coding::kIdentity) {
      auto deflated = codec::deflate(request.response_coding, payload, engine.pool());
      if (!deflated) return std::move(deflated).error();
      head.content_encoding = request.response_coding == codec::Coding::kGzip ? "gzip" : "deflate";
      payload.clear();
      const std::byte* data = deflated->owner.data();
      payload.add(std::move(deflated->owner), data, deflated->size);
    }
  }
  respond(request.exchange, head, payload, now);
  return {};
}

void Http1Session::fail(Request& request, const Status& status, TimePoint now) {
  respond_error(request.exchange, in_dialect(status, request.dialect), now);
}

void Http1Session::reply(std::uint64_t exchange, const ControlReply& reply, TimePoint now) {
  Payload payload;
  payload.add_static(reply.body);  // the protocol copies segments without an owner
  net::ResponseHead head;
  head.status = reply.status;
  head.content_type = reply.content_type;
  head.extra = reply.extra_headers;
  respond(exchange, head, payload, now);
}

void Http1Session::respond(std::uint64_t exchange, const net::ResponseHead& head, Payload& body,
                           TimePoint now) {
  connection_.engine().count_response(head.status);
  protocol_.respond(exchange, head, body, now);
}

void Http1Session::respond_error(std::uint64_t exchange, const Status& status, TimePoint now) {
  std::string body;
  codec::append_error_json(status.message(), body);
  Payload payload;
  payload.add_static(body);
  net::ResponseHead head;
  head.status = http_status(status.code());
  head.content_type = "application/json";
  if (status.code() == Code::kUnavailable) head.extra = kRetryAfter;
  if (status.code() == Code::kUnsupportedMedia) head.extra = kReadableCodings;
  respond(exchange, head, payload, now);
}

}  // namespace servolley::engine
