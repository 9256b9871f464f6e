#include "net/http1.h"

#include <algorithm>
#include <memory>

#include "net/http1_connection.h"

namespace servolley::net {
namespace {

constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";

}  // namespace

void Http1Connection::Impl::answer(std::uint64_t exchange, const ResponseHead& head, Payload& body,
                                   TimePoint now) {
  if (!answers.is_open(exchange)) return body.clear();
  const bool done = reading == Reading::kNothing || reading == Reading::kDiscard;
  const bool close = head.close || (done && answers.is_last(exchange));
  const bool was_empty = !answers.has_output();
  if (!answers.answer(exchange, head, body, close)) return abort();
  if (close && !done) end_reading();
  if (was_empty && answers.has_output()) write_since = now;
  send_100(now);
}

void Http1Connection::Impl::send_100(TimePoint now) {
  if (!call.owes_100 || answers.open_count() > 0) return;
  call.owes_100 = false;
  if (!answers.has_output()) write_since = now;
  answers.interim(kContinue);
  body_since = now;
}

void Http1Connection::Impl::sent(std::size_t bytes, TimePoint now) {
  const bool was_paused = paused();
  answers.sent(bytes);
  if (bytes) write_since = now;
  output_left(was_paused, now);
}

void Http1Connection::Impl::take_output(Payload& output, TimePoint now) {
  const bool was_paused = paused();
  if (!answers.take(output)) return abort();
  output_left(was_paused, now);
}

void Http1Connection::Impl::output_left(bool was_paused, TimePoint now) {
  idle_since = now;
  restart_clocks(was_paused, now);
  // Also if the pause ended with an answer before: only now do we call the handler.
  if (parsing || paused()) return;
  if (reading == Reading::kHead && unparsed() > 0) return consume_stored(now);
  after_read(now);
}

// The peer's time does not run while we do not read. In the middle of a head or a body only unsent
// bytes pause us, so only output that leaves ends such a pause.
void Http1Connection::Impl::restart_clocks(bool was_paused, TimePoint now) {
  if (!was_paused || paused()) return;
  body_since = now;
  if (head_since != kNever) head_since = now;
}

// ------------------------------------------------------------------------------------- the public

Http1Connection::Http1Connection(Http1Handler& handler, Pool& pool, ReadScratch& scratch,
                                 const Http1Limits& limits, TimePoint now)
    : impl_(std::make_unique<Impl>(handler, pool, scratch, limits, now)) {}

Http1Connection::~Http1Connection() = default;

std::span<std::byte> Http1Connection::receive_space() { return impl_->receive_space(); }

void Http1Connection::received(std::size_t bytes, TimePoint now) { impl_->received(bytes, now); }

void Http1Connection::received_eof(TimePoint) { impl_->received_eof(); }

void Http1Connection::respond(std::uint64_t exchange, const ResponseHead& head, Payload& body,
                              TimePoint now) {
  impl_->answer(exchange, head, body, now);
}

std::size_t Http1Connection::output(iovec* pieces, std::size_t count) const {
  return impl_->answers.output(pieces, count);
}

void Http1Connection::sent(std::size_t bytes, TimePoint now) { impl_->sent(bytes, now); }

void Http1Connection::take_output(Payload& output, TimePoint now) {
  impl_->take_output(output, now);
}

bool Http1Connection::has_output() const { return impl_->answers.has_output(); }

bool Http1Connection::wants_read() const {
  return impl_->reading == Impl::Reading::kDiscard || !impl_->paused();
}

bool Http1Connection::wants_close() const {
  return impl_->reading == Impl::Reading::kNothing && impl_->answers.open_count() == 0 &&
         !impl_->answers.has_output();
}

std::size_t Http1Connection::open_exchanges() const { return impl_->answers.open_count(); }

void Http1Connection::drain() {
  impl_->draining = true;
  const bool between_calls = impl_->reading == Impl::Reading::kHead && impl_->scanner.fresh();
  if (between_calls && !impl_->parsing) impl_->end_reading();
  impl_->call.last = true;
}

TimePoint Http1Connection::next_deadline() const {
  const Impl& c = *impl_;
  TimePoint next = kNever;
  const auto at = [&](bool applies, TimePoint since, Duration timeout) {
    if (applies && since != kNever) next = std::min(next, since + timeout);
  };
  at(c.answers.has_output(), c.write_since, c.limits.write_timeout);
  at(c.in_head(), c.head_since, c.limits.header_timeout);
  at(c.in_body(), c.body_since, c.limits.body_timeout);
  at(c.idle(), c.idle_since, c.limits.idle_timeout);
  at(c.reading == Impl::Reading::kDiscard, c.linger_until, Duration::zero());
  return next;
}

void Http1Connection::on_deadline(TimePoint now) {
  Impl& c = *impl_;
  const auto due = [now](bool applies, TimePoint since, Duration timeout) {
    return applies && since != kNever && since + timeout <= now;
  };
  if (due(c.answers.has_output(), c.write_since, c.limits.write_timeout)) return c.abort();
  if (due(c.in_head(), c.head_since, c.limits.header_timeout)) {
    return c.fail(408, "the request head took too long", now);
  }
  if (due(c.in_body(), c.body_since, c.limits.body_timeout)) {
    return c.fail(408, "the request body took too long", now, c.call.head.method == "HEAD");
  }
  if (due(c.idle(), c.idle_since, c.limits.idle_timeout)) return c.end_reading();
  if (c.reading == Impl::Reading::kDiscard && c.linger_until <= now) c.end_reading();
}

}  // namespace servolley::net
