#include "net/http2.h"

#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <memory>
#include <utility>

#include "net/http2_connection.h"

namespace servolley::net {
namespace {

// How long a client may take to see the first GOAWAY before the last one is sent.
constexpr Duration kDrainNotice = std::chrono::seconds(1);
constexpr std::uint64_t kKeepalivePing = 1;
constexpr std::uint64_t kDrainPing = 2;
constexpr std::size_t kWindowStepBytes = 16 << 10;

}  // namespace

Http2Connection::Impl::Impl(Http2Handler& handler_in, Pool& pool_in, ReadScratch& scratch_in,
                            const Http2Limits& limits_in, TimePoint now_in)
    : handler(handler_in),
      pool(pool_in),
      scratch(scratch_in),
      limits(limits_in),
      now(now_in),
      messages(pool_in, limits_in.buffered_message_bytes),
      window_step(std::min<std::size_t>({kWindowStepBytes, limits_in.stream_window_bytes / 4,
                                         limits_in.connection_window_bytes / 4})),
      output(pool_in),
      opened(now_in),
      last_read(now_in),
      idle_since(now_in),
      write_since(now_in),
      looked_at_messages(now_in),
      resets(limits_in.floods_per_second),
      pings(limits_in.floods_per_second),
      settings(limits_in.floods_per_second),
      empty_frames(limits_in.floods_per_second),
      small_frames(limits_in.floods_per_second) {
  dead = !open_session();
}

Http2Connection::Impl::~Impl() {
  nghttp2_session_del(session);
  for (Http2Stream* list : {streams, spare_streams}) {
    while (list) delete std::exchange(list, list->next);
  }
}

// ------------------------------------------------------------------------------------------- ends

void Http2Connection::Impl::settle() {
  if (settling || in_session) return;
  settling = true;
  if (!dead) {
    if (closing) give_up_calls();
    deliver_parked();
    deliver_backlogs();
    give_windows_back();
    pull();
    if (closing) give_up_calls();
  }
  report_cancelled();
  settling = false;
}

// Handlers may end other calls, and so on, while this runs.
void Http2Connection::Impl::report_cancelled() {
  for (std::size_t i = 0; i < cancelled.size(); ++i) {
    if (const std::uint32_t stream = cancelled[i]) handler.on_cancel(stream);
  }
  cancelled.clear();
}

void Http2Connection::Impl::give_up_calls() {
  for (Http2Stream* stream = streams; stream; stream = stream->next) {
    if (!stream->ended) give_up(*stream);
  }
  for (; first_parked != parked.size(); ++first_parked) {
    const Parked& next = parked[first_parked];
    if (!next.half_close) messages.release(counted(next.message));
  }
  parked.clear();
  first_parked = 0;
}

void Http2Connection::Impl::give_up(Http2Stream& stream) {
  on_reset(stream);
  stream.ended = stream.silent = true;
  drop_memory(stream);
  waiting -= stream.outbox.size();
  stream.outbox.clear();
}

void Http2Connection::Impl::drop_memory(Http2Stream& stream) {
  stream.inbox.clear(messages);
  for (; stream.first_waiting != stream.backlog.size(); ++stream.first_waiting) {
    messages.release(counted(stream.backlog[stream.first_waiting]));
  }
  stream.backlog = std::vector<GrpcMessage>();
  stream.first_waiting = 0;
  stream.held = stream.half_close_waits = false;
}

void Http2Connection::Impl::abort() {
  dead = true;
  give_up_calls();
  output.clear();
  waiting = 0;
  for (Http2Stream* stream = streams; stream; stream = stream->next) stream->outbox.clear();
}

void Http2Connection::Impl::drop_stalled() {
  if (output.size() > 0) return abort();
  for (Http2Stream* stream = streams; stream; stream = stream->next) {
    if (stream->outbox.size() == 0) continue;
    give_up(*stream);
    nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, static_cast<std::int32_t>(stream->id),
                              NGHTTP2_CANCEL);
  }
}

void Http2Connection::Impl::begin_drain() {
  if (draining || dead) return;
  draining = true;
  drain_since = now;
  nghttp2_submit_shutdown_notice(session);
  // Calls that were sent before the notice was seen come before the answer to this.
  ping(kDrainPing);
}

void Http2Connection::Impl::finish_drain() {
  if (std::exchange(drained, true)) return;
  nghttp2_submit_goaway(session, NGHTTP2_FLAG_NONE, static_cast<std::int32_t>(last_stream),
                        NGHTTP2_NO_ERROR, nullptr, 0);
}

void Http2Connection::Impl::ping(std::uint64_t payload) {
  std::array<std::uint8_t, 8> opaque{};
  opaque[7] = static_cast<std::uint8_t>(payload);
  nghttp2_submit_ping(session, NGHTTP2_FLAG_NONE, opaque.data());
}

bool Http2Connection::Impl::has_output() {
  if (output.size() == 0) pull();
  return output.size() > 0;
}

bool Http2Connection::Impl::wants_read() {
  if (!reading()) return true;  // and thrown away, until the socket is closed
  // Output that waits for the peer's windows is no reason: only by reading do we learn of them.
  return !has_output() || (!over_limit() && nghttp2_session_get_outbound_queue_size(session) <
                                                limits.floods_per_second);
}

bool Http2Connection::Impl::wants_close() {
  if (dead) return true;
  if (has_output()) return false;
  return closing || peer_done ||
         (!nghttp2_session_want_read(session) && !nghttp2_session_want_write(session));
}

// ------------------------------------------------------------------------------------- the public

Http2Connection::Http2Connection(Http2Handler& handler, Pool& pool, ReadScratch& scratch,
                                 const Http2Limits& limits, TimePoint now)
    : impl_(std::make_unique<Impl>(handler, pool, scratch, limits, now)) {}

Http2Connection::~Http2Connection() = default;

std::span<std::byte> Http2Connection::receive_space() { return impl_->receive_space(); }

void Http2Connection::received(std::size_t bytes, TimePoint now) {
  impl_->now = now;
  impl_->received(bytes);
}

void Http2Connection::received_eof(TimePoint now) {
  impl_->now = now;
  impl_->received_eof();
}

void Http2Connection::announce_coding(std::uint32_t id, MessageCoding coding) {
  Http2Stream* const stream = impl_->find(id);
  if (stream && !stream->responded) stream->response_coding = coding;
}

void Http2Connection::send_message(std::uint32_t stream, Payload& body, MessageCoding coding,
                                   TimePoint now) {
  impl_->now = now;
  impl_->send_message(stream, body, coding);
}

void Http2Connection::finish(std::uint32_t stream, const Status& status, TimePoint now,
                             std::span<const Header> extra) {
  impl_->now = now;
  impl_->finish(stream, status, extra);
}

void Http2Connection::hold(std::uint32_t stream) {
  Http2Stream* const found = impl_->find(stream);
  if (found && !found->ended) found->held = true;
}

void Http2Connection::let_go(std::uint32_t stream) { impl_->let_go(stream); }

std::size_t Http2Connection::unsent_bytes(std::uint32_t stream) const {
  const Http2Stream* const found = impl_->find(stream);
  return found ? found->outbox.size() : 0;
}

std::size_t Http2Connection::output(iovec* pieces, std::size_t count) const {
  impl_->pull();
  return impl_->output.output(pieces, count);
}

void Http2Connection::sent(std::size_t bytes, TimePoint now) {
  impl_->now = now;
  if (bytes) impl_->write_since = now;
  impl_->output.sent(bytes);
  impl_->settle();
}

void Http2Connection::take_output(Payload& taken, TimePoint now) {
  impl_->now = now;
  impl_->write_since = now;
  impl_->pull();
  if (!impl_->output.take(taken)) impl_->abort();
  impl_->settle();
}

bool Http2Connection::has_output() const { return impl_->has_output(); }
bool Http2Connection::wants_read() const { return impl_->wants_read(); }
bool Http2Connection::wants_close() const { return impl_->wants_close(); }
std::size_t Http2Connection::open_streams() const { return impl_->stream_count; }

void Http2Connection::drain(TimePoint now) {
  impl_->now = now;
  impl_->begin_drain();
}

TimePoint Http2Connection::next_deadline() const {
  Impl& c = *impl_;
  if (c.dead) return kNever;
  TimePoint next = kNever;
  const auto at = [&](bool applies, TimePoint since, Duration timeout) {
    if (applies) next = std::min(next, since + timeout);
  };
  at(c.unsent() > 0, c.write_since, c.limits.write_timeout);
  at(!c.greeted, c.opened, c.limits.preface_timeout);
  at(c.greeted && c.stream_count == 0 && !c.draining, c.idle_since, c.limits.idle_timeout);
  at(c.draining && !c.drained, c.drain_since, kDrainNotice);
  at(c.messages.held_bytes() > 0, c.looked_at_messages, c.limits.message_timeout);
  if (c.greeted && c.wants_read()) {
    at(!c.pinged, c.last_read, c.limits.keepalive_interval);
    at(c.pinged, c.last_ping, c.limits.keepalive_timeout);
  }
  return next;
}

void Http2Connection::on_deadline(TimePoint now) {
  Impl& c = *impl_;
  if (c.dead) return;
  c.now = now;
  const auto due = [now](bool applies, TimePoint since, Duration timeout) {
    return applies && since + timeout <= now;
  };
  if (due(c.unsent() > 0, c.write_since, c.limits.write_timeout)) {
    c.drop_stalled();
  } else if (due(!c.greeted, c.opened, c.limits.preface_timeout) ||
             due(c.pinged && c.wants_read(), c.last_ping, c.limits.keepalive_timeout)) {
    c.abort();
  } else {
    if (due(true, c.looked_at_messages, c.limits.message_timeout)) c.look_at_messages();
    if (due(c.draining && !c.drained, c.drain_since, kDrainNotice)) c.finish_drain();
    if (due(c.greeted && c.stream_count == 0, c.idle_since, c.limits.idle_timeout)) c.begin_drain();
    if (due(c.greeted && !c.pinged && c.wants_read(), c.last_read, c.limits.keepalive_interval)) {
      c.pinged = true;
      c.last_ping = now;
      c.ping(kKeepalivePing);
    }
  }
  c.settle();
}

}  // namespace servolley::net
