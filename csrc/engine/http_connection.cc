#include "engine/http_connection.h"

#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <charconv>

#include "engine/engine.h"

namespace servolley::engine {
namespace {

constexpr std::size_t kPiecesPerSend = 64;

// The value of Inference-Header-Content-Length where the body has to be aligned behind it; whether
// it is valid is decided when the call is complete.
std::size_t json_prefix(const net::RequestHead& head) {
  const net::Header* header = head.find("inference-header-content-length");
  if (!header) return 0;
  std::size_t value = 0;
  const auto* end = header->value.data() + header->value.size();
  const auto [stop, error] = std::from_chars(header->value.data(), end, value);
  return error == std::errc() && stop == end ? value : 0;
}

}  // namespace

HttpConnection::HttpConnection(Engine& engine, bool control_only)
    : engine_(engine),
      control_only_(control_only),
      protocol_(*this, engine.pool(), engine.scratch(), engine.options().http, Clock::now()) {}

HttpConnection::~HttpConnection() { closed(); }

void HttpConnection::opened(int fd) {
  fd_ = fd;
  open_ = true;
  engine_.connection_opened(*this);
}

void HttpConnection::closed() {
  if (!open_) return;
  open_ = false;
  fd_ = -1;
  while (open_requests_) {
    Request& request = *open_requests_;
    remove_open(request);
    engine_.cancel(request);
  }
  engine_.connection_closed(*this);
}

std::uint32_t HttpConnection::received(std::size_t bytes) {
  const TimePoint now = Clock::now();
  engine_.front().bytes_received += bytes;
  protocol_.received(bytes, now);
  engine_.flush_dirty(now);
  return attend();
}

std::uint32_t HttpConnection::eof_received() {
  const TimePoint now = Clock::now();
  protocol_.received_eof(now);
  engine_.flush_dirty(now);
  return attend();
}

net::BodyPlan HttpConnection::plan_body(const net::RequestHead& head) {
  return {
      .refusal = {}, .limit_bytes = engine_.options().body_bytes, .align_at = json_prefix(head)};
}

void HttpConnection::on_request(net::HttpRequest&& request) {
  if (control_only_) {
    queue_control(request);
    return;
  }
  HotRoute route;
  Status error;
  switch (match_hot_route(request.head.method, request.head.target, engine_.path_scratch(), route,
                          error)) {
    case RouteMatch::kHot:
      ticks_ |= engine_.infer(*this, std::move(request), route, Clock::now());
      break;
    case RouteMatch::kInvalid:
      engine_.refuse(*this, request.exchange, error);
      break;
    case RouteMatch::kControl:
      queue_control(request);
      break;
  }
}

void HttpConnection::queue_control(const net::HttpRequest& request) {
  ControlCall call{
      .exchange = request.exchange,
      .method = std::string(request.head.method),
      .target = std::string(request.head.target),
      .headers = {},
      .body = std::string(reinterpret_cast<const char*>(request.body.data()), request.body.size())};
  for (const net::Header& header : request.head.headers) {
    call.headers.emplace_back(header.name, header.value);
  }
  calls_.push_back(std::move(call));
}

std::uint32_t HttpConnection::respond_control(std::uint64_t exchange, int status,
                                              std::string_view content_type, std::string_view extra,
                                              std::string_view body) {
  const TimePoint now = Clock::now();
  Payload payload;
  payload.add_static(body);  // the protocol copies segments without an owner
  net::ResponseHead head;
  head.status = status;
  head.content_type = content_type;
  head.extra = extra;
  respond(exchange, head, payload, now);
  engine_.flush_dirty(now);
  return attend();
}

void HttpConnection::respond(std::uint64_t exchange, const net::ResponseHead& head, Payload& body,
                             TimePoint now) {
  if (!open_) return;
  engine_.count_response(head.status);
  protocol_.respond(exchange, head, body, now);
  engine_.mark_dirty(*this);
}

void HttpConnection::add_open(Request& request) {
  request.open_previous = nullptr;
  request.open_next = open_requests_;
  if (open_requests_) open_requests_->open_previous = &request;
  open_requests_ = &request;
}

void HttpConnection::remove_open(Request& request) {
  (request.open_previous ? request.open_previous->open_next : open_requests_) = request.open_next;
  if (request.open_next) request.open_next->open_previous = request.open_previous;
  request.open_previous = request.open_next = nullptr;
  request.connection = nullptr;
}

void HttpConnection::flush(TimePoint now) {
  while (open_ && !failed_ && !transport_writes_ && fd_ >= 0 && protocol_.has_output()) {
    std::array<iovec, kPiecesPerSend> pieces;
    const std::size_t count = protocol_.output(pieces.data(), pieces.size());
    std::size_t wanted = 0;
    for (std::size_t i = 0; i < count; ++i) wanted += pieces[i].iov_len;
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = count;
    const ssize_t sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0) {
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) failed_ = true;
      break;
    }
    engine_.front().bytes_sent += static_cast<std::uint64_t>(sent);
    protocol_.sent(static_cast<std::size_t>(sent), now);
    if (static_cast<std::size_t>(sent) < wanted) break;
  }
  if (needs_attention()) engine_.request_attention(*this);
}

bool HttpConnection::needs_attention() const {
  if (!open_) return false;
  return failed_ || (!transport_writes_ && protocol_.has_output()) || !calls_.empty() || ticks_ ||
         protocol_.wants_close() || protocol_.wants_read() != reading_;
}

std::uint32_t HttpConnection::attend() {
  std::uint32_t bits = 0;
  if (!open_) return bits;
  if (std::exchange(ticks_, false)) bits |= kTick;
  if (!calls_.empty()) bits |= kCalls;
  if (failed_) return bits | kClose;
  if (!transport_writes_ && protocol_.has_output()) bits |= kOutput;
  if (protocol_.wants_close() && !transport_writes_) bits |= kClose;
  if (const bool wants = protocol_.wants_read(); wants != reading_) {
    reading_ = wants;
    bits |= wants ? kResume : kPause;
  }
  return bits;
}

std::uint32_t HttpConnection::writable() {
  transport_writes_ = false;
  const TimePoint now = Clock::now();
  flush(now);
  engine_.flush_dirty(
      now);  // room in the output may have let pipelined calls be parsed and answered
  return attend();
}

void HttpConnection::take_output(Payload& output) {
  protocol_.take_output(output, Clock::now());
  transport_writes_ = output.size() > 0;
  engine_.front().bytes_sent += output.size();
}

void HttpConnection::drain() { protocol_.drain(); }

void HttpConnection::check_deadline(TimePoint now) {
  if (protocol_.next_deadline() > now) return;
  protocol_.on_deadline(now);
  engine_.mark_dirty(*this);
}

}  // namespace servolley::engine
