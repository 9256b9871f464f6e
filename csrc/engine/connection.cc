#include "engine/connection.h"

#include <sys/socket.h>

#include <cerrno>
#include <cstring>
#include <string_view>

#include "engine/engine.h"
#include "engine/grpc_session.h"
#include "engine/http1_session.h"

namespace servolley::engine {
namespace {

constexpr std::size_t kPiecesPerSend = 64;
constexpr std::string_view kHttp2Preface = "PRI";

}  // namespace

Connection::Connection(Engine& engine, bool control_only)
    : engine_(engine), control_only_(control_only), from_outside_(true) {}

Connection::Connection(Engine& engine, std::unique_ptr<Session> session)
    : engine_(engine), control_only_(true), from_outside_(false), session_(std::move(session)) {}

Connection::~Connection() { closed(); }

void Connection::opened(int fd, std::string_view alpn) {
  fd_ = fd;
  if (alpn == "h2") agreed_ = Protocol::kHttp2;
  if (alpn == "http/1.1") agreed_ = Protocol::kHttp1;
  open_ = true;
  silent_since_ = Clock::now();
  engine_.connection_opened(*this);
}

void Connection::closed() {
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

std::span<std::byte> Connection::receive_space() {
  if (session_) return session_->receive_space();
  auto& scratch = engine_.scratch();
  return {scratch.data.get() + sniffed_size_, scratch.size - sniffed_size_};
}

// The bytes lie in the read buffer, behind the room of those that were kept. False: not enough yet.
bool Connection::choose_session(std::size_t& bytes, TimePoint now) {
  std::byte* const data = engine_.scratch().data.get();
  std::memcpy(data, sniffed_.data(), sniffed_size_);
  bytes += sniffed_size_;
  const std::size_t known = std::min(bytes, kSniffedBytes);
  const bool http2 = agreed_ == Protocol::kUnknown
                         ? std::memcmp(data, kHttp2Preface.data(), known) == 0
                         : agreed_ == Protocol::kHttp2;
  if (http2 && known < kSniffedBytes && agreed_ == Protocol::kUnknown) {
    std::memcpy(sniffed_.data(), data, known);
    if (sniffed_size_ == 0) silent_since_ = now;
    sniffed_size_ = known;
    return false;
  }
  if (http2) {
    session_ = std::make_unique<GrpcSession>(*this, now);
  } else {
    session_ = std::make_unique<Http1Session>(*this, now);
  }
  if (draining_) session_->drain(now);
  // A session takes bytes only where it asked for them.
  const auto space = session_->receive_space();
  if (space.data() != data) std::memcpy(space.data(), data, std::min(bytes, space.size()));
  return true;
}

std::uint32_t Connection::received(std::size_t bytes) {
  const TimePoint now = Clock::now();
  engine_.front().bytes_received += bytes;
  if (session_ || choose_session(bytes, now)) {
    session_->received(bytes, now);
    // Acknowledgements and refusals need no tick.
    if (session_->has_output()) engine_.mark_dirty(*this);
  }
  const bool device_works = engine_.device_works_for(*this);
  // Nobody else is talking: there is no batch to wait for, and the answer saves a turn of the loop.
  if (ticks_ && engine_.talks_alone(*this)) {
    ticks_ = false;
    return engine_.answer_at_once(*this, now);
  }
  engine_.flush_dirty(now);
  return device_works && !ticks_ ? engine_.await_device(*this, now) : attend();
}

std::uint32_t Connection::eof_received() {
  const TimePoint now = Clock::now();
  if (session_) {
    engine_.client_closed(*this, now);
    session_->received_eof(now);
    engine_.mark_dirty(*this);
  } else {
    finished_ = true;
  }
  engine_.flush_dirty(now);
  return attend();
}

std::uint32_t Connection::reply(std::uint64_t exchange, const ControlReply& reply) {
  const TimePoint now = Clock::now();
  if (open_ && session_) session_->reply(exchange, reply, now);
  engine_.mark_dirty(*this);
  engine_.flush_dirty(now);
  return attend();
}

std::uint32_t Connection::reply_message(std::uint64_t exchange, std::string_view message) {
  const TimePoint now = Clock::now();
  if (open_ && session_) session_->reply_message(exchange, message, now);
  engine_.mark_dirty(*this);
  engine_.flush_dirty(now);
  return attend();
}

std::uint32_t Connection::reply_end(std::uint64_t exchange, const Status& status) {
  const TimePoint now = Clock::now();
  if (open_ && session_) session_->reply_end(exchange, status, now);
  engine_.mark_dirty(*this);
  engine_.flush_dirty(now);
  return attend();
}

void Connection::add_open(Request& request) {
  request.open_previous = nullptr;
  request.open_next = open_requests_;
  if (open_requests_) open_requests_->open_previous = &request;
  open_requests_ = &request;
}

void Connection::remove_open(Request& request) {
  (request.open_previous ? request.open_previous->open_next : open_requests_) = request.open_next;
  if (request.open_next) request.open_next->open_previous = request.open_previous;
  request.open_previous = request.open_next = nullptr;
  request.connection = nullptr;
}

void Connection::flush(TimePoint now) {
  while (open_ && session_ && !failed_ && !transport_writes_ && fd_ >= 0 &&
         session_->has_output()) {
    std::array<iovec, kPiecesPerSend> pieces;
    const std::size_t count = session_->output(pieces.data(), pieces.size());
    if (count == 0) break;
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
    session_->sent(static_cast<std::size_t>(sent), now);
    if (static_cast<std::size_t>(sent) < wanted) break;
  }
  if (needs_attention()) engine_.request_attention(*this);
}

bool Connection::needs_attention() const {
  if (!open_) return false;
  if (failed_ || finished_ || !calls_.empty() || ticks_) return true;
  return session_ && ((!transport_writes_ && session_->has_output()) || session_->wants_close() ||
                      session_->wants_read() != reading_);
}

std::uint32_t Connection::attend() {
  std::uint32_t bits = 0;
  if (!open_) return bits;
  if (std::exchange(ticks_, false)) bits |= kTick;
  if (!calls_.empty()) bits |= kCalls;
  if (failed_ || finished_) return bits | kClose;
  if (!session_) return bits;
  if (!transport_writes_ && session_->has_output()) bits |= kOutput;
  if (session_->wants_close() && !transport_writes_) bits |= kClose;
  if (const bool wants = session_->wants_read(); wants != reading_) {
    reading_ = wants;
    bits |= wants ? kResume : kPause;
  }
  return bits;
}

std::uint32_t Connection::writable() {
  transport_writes_ = false;
  const TimePoint now = Clock::now();
  flush(now);
  engine_.flush_dirty(now);  // room in the output may have let waiting calls be parsed and answered
  return attend();
}

void Connection::take_output(Payload& output) {
  if (!session_) return;
  session_->take_output(output, Clock::now());
  transport_writes_ = output.size() > 0;
  engine_.front().bytes_sent += output.size();
}

void Connection::drain() {
  draining_ = true;
  if (session_) {
    session_->drain(Clock::now());
  } else {
    finished_ = true;
  }
}

void Connection::check_deadline(TimePoint now) {
  if (!session_) {
    const net::Http1Limits& limits = engine_.options().http;
    const Duration patience = sniffed_size_ ? limits.header_timeout : limits.idle_timeout;
    finished_ = finished_ || now - silent_since_ >= patience;
  } else if (session_->next_deadline() <= now) {
    session_->on_deadline(now);
  } else {
    return;
  }
  engine_.mark_dirty(*this);
}

}  // namespace servolley::engine
