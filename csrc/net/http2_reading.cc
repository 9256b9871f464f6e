#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <utility>

#include "net/http2_connection.h"

namespace servolley::net {
namespace {

// What counts as progress of a message; less often than every message_timeout is a trickle.
constexpr std::size_t kProgressBytes = 1024;
// Less is not worth a read of its own.
constexpr std::size_t kDirectBytes = 16 << 10;

}  // namespace

std::span<std::byte> Http2Connection::Impl::receive_space() {
  std::span<std::byte> chosen(scratch.data.get(), scratch.size);
  if (frame_left >= kDirectBytes && reading()) {
    if (const Http2Stream* stream = find(frame_stream)) {
      const std::span<std::byte> room = stream->inbox.room();
      if (room.size() >= kDirectBytes) chosen = room.first(std::min(room.size(), frame_left));
    }
  }
  space = chosen.data();
  return chosen;
}

void Http2Connection::Impl::received(std::size_t bytes) {
  last_read = now;
  pinged = false;
  if (!reading() || bytes == 0) return;
  in_session = true;
  const ssize_t used =
      nghttp2_session_mem_recv(session, reinterpret_cast<const std::uint8_t*>(space), bytes);
  in_session = false;
  messages.end_of_read();
  if (used == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS || used == NGHTTP2_ERR_FLOODED) {
    calm();
  } else if (used < 0) {
    abort();
  }
  settle();
}

void Http2Connection::Impl::received_eof() {
  peer_done = true;
  give_up_calls();
  settle();
}

void Http2Connection::Impl::begin_call(Http2Stream& stream) {
  if (head.list_bytes() <= limits.header_list_bytes) {
    if (const int http = head.http_refusal()) return refuse_http(stream, http);
  }
  if (const Status refusal = head.refusal(limits.header_list_bytes); !refusal.ok()) {
    static constexpr Header kAccepted{"grpc-accept-encoding", "identity,deflate,gzip"};
    const std::span<const Header> extra(&kAccepted, head.unknown_encoding() ? 1 : 0);
    return answer_end(stream, refusal, extra);
  }
  stream.request_coding = head.coding();
  stream.message_limit = limits.message_bytes;
  stream.reported = true;
  const Status refusal = handler.on_call(stream.id, head.head(), &stream.message_limit);
  if (refusal.ok()) return;
  stream.reported = false;
  if (!stream.ended) answer_end(stream, refusal, {});
}

void Http2Connection::Impl::on_data(Http2Stream& stream, std::span<const std::byte> data) {
  consume(stream, data.size());
  // The first message under way: time begins to run.
  if (messages.held_bytes() == 0) looked_at_messages = now;
  stream.progress += data.size();
  while (!data.empty() && !stream.ended) {
    GrpcMessage message;
    switch (
        stream.inbox.feed(data, stream.request_coding, stream.message_limit, messages, message)) {
      case Inbox::Outcome::kMore:
        break;
      case Inbox::Outcome::kMessage:
        stream.watched = false;
        deliver(stream, std::move(message));
        break;
      case Inbox::Outcome::kFailed:
        fail_call(stream, stream.inbox.failure());
        break;
    }
  }
}

void Http2Connection::Impl::deliver(Http2Stream& stream, GrpcMessage&& message) {
  if (!stream.waits() && first_parked == parked.size() && !over_limit()) {
    return handler.on_message(stream.id, std::move(message));
  }
  if (!messages.count(counted(message))) {
    return fail_call(stream, Status(Code::kResourceExhausted,
                                    "too many message bytes are under way on this channel"));
  }
  if (stream.waits() && stream.parked == 0) return stream.backlog.push_back(std::move(message));
  parked.push_back({stream.id, false, std::move(message)});
  ++stream.parked;
}

void Http2Connection::Impl::on_half_close(Http2Stream& stream) {
  stream.half_closed = true;
  if (stream.ended) return;
  if (stream.inbox.partial()) {
    return fail_call(stream, internal_error("the last message of the call is incomplete"));
  }
  if (stream.waits() && stream.parked == 0) {
    stream.half_close_waits = true;
  } else if (first_parked == parked.size()) {
    handler.on_half_close(stream.id);
  } else {
    parked.push_back({stream.id, true, {}});  // at most one per stream
    ++stream.parked;
  }
}

// Handlers may answer, and so fill the room again, while this runs.
void Http2Connection::Impl::deliver_parked() {
  while (first_parked != parked.size() && !over_limit() && !dead) {
    Parked next = std::move(parked[first_parked++]);
    Http2Stream* const stream = find(next.stream);
    const bool open = stream && !stream->ended;
    if (open) --stream->parked;
    if (open && stream->waits()) {  // it must not hold up the others
      stream->half_close_waits |= next.half_close;
      if (!next.half_close) stream->backlog.push_back(std::move(next.message));
      continue;
    }
    if (!next.half_close) messages.release(counted(next.message));
    if (!open) continue;
    if (next.half_close) {
      handler.on_half_close(next.stream);
    } else {
      handler.on_message(next.stream, std::move(next.message));
    }
  }
  if (first_parked * 2 < parked.size()) return;
  parked.erase(parked.begin(), parked.begin() + static_cast<std::ptrdiff_t>(first_parked));
  first_parked = 0;
}

void Http2Connection::Impl::let_go(std::uint32_t id) {
  Http2Stream* const stream = find(id);
  if (!stream || !std::exchange(stream->held, false)) return;
  let_go_streams.push_back(id);
}

void Http2Connection::Impl::deliver_backlogs() {
  if (let_go_streams.empty()) return;
  // Handlers may hold calls, and let them go again, while this runs.
  std::size_t done = 0;
  while (done != let_go_streams.size() && !dead && deliver_backlog(let_go_streams[done])) ++done;
  let_go_streams.erase(let_go_streams.begin(),
                       let_go_streams.begin() + static_cast<std::ptrdiff_t>(done));
}

bool Http2Connection::Impl::deliver_backlog(std::uint32_t id) {
  Http2Stream* stream = find(id);
  for (; stream && !stream->held && stream->first_waiting != stream->backlog.size();
       stream = find(id)) {
    if (over_limit()) return false;
    GrpcMessage message = std::move(stream->backlog[stream->first_waiting++]);
    messages.release(counted(message));
    handler.on_message(id, std::move(message));
  }
  if (!stream) return true;
  auto& backlog = stream->backlog;
  if (stream->held && stream->first_waiting * 2 >= backlog.size()) {
    backlog.erase(backlog.begin(),
                  backlog.begin() + static_cast<std::ptrdiff_t>(stream->first_waiting));
    stream->first_waiting = 0;
  }
  if (stream->held) return true;
  stream->first_waiting = 0;
  backlog = std::vector<GrpcMessage>();  // of a client that sends faster than it is answered: large
  windows_dry = true;
  if (std::exchange(stream->half_close_waits, false)) handler.on_half_close(id);
  return true;
}

void Http2Connection::Impl::consume(Http2Stream& stream, std::size_t bytes) {
  unconsumed += bytes;
  stream.unconsumed += bytes;
  if (stream.unconsumed < window_step) return;
  if (over_limit() || stream.waits()) {
    windows_dry = true;
    return;
  }
  nghttp2_session_consume_stream(session, static_cast<std::int32_t>(stream.id),
                                 std::exchange(stream.unconsumed, 0));
}

// While too much is unsent, the client's windows are left to run dry.
void Http2Connection::Impl::give_windows_back() {
  if (over_limit() || !reading()) return;
  if (unconsumed >= window_step) {
    nghttp2_session_consume_connection(session, std::exchange(unconsumed, 0));
  }
  if (!std::exchange(windows_dry, false)) return;
  for (Http2Stream* stream = streams; stream; stream = stream->next) {
    if (stream->unconsumed < window_step || stream->waits()) continue;
    nghttp2_session_consume_stream(session, static_cast<std::int32_t>(stream->id),
                                   std::exchange(stream->unconsumed, 0));
  }
}

void Http2Connection::Impl::look_at_messages() {
  looked_at_messages = now;
  const bool windows_open = !over_limit();
  for (Http2Stream* stream = streams; stream; stream = stream->next) {
    const bool under_way =
        windows_open && !stream->ended && !stream->waits() && !stream->inbox.room().empty();
    const bool stalled = stream->watched && stream->progress < kProgressBytes;
    stream->watched = under_way;  // one that began since the last look has time until the next
    stream->progress = 0;
    if (!under_way || !stalled) continue;
    fail_call(*stream, Status(Code::kRequestTimeout, "the message took too long to arrive"));
  }
}

void Http2Connection::Impl::fail_call(Http2Stream& stream, const Status& status) {
  // The call's work may be under way: as good as a reset.
  count(resets);
  on_reset(stream);
  answer_end(stream, status, {});
}

// The call is over without an answer of the handler's.
void Http2Connection::Impl::on_reset(Http2Stream& stream) {
  if (!std::exchange(stream.reported, false) || stream.ended) return;
  cancelled.push_back(stream.id);
}

}  // namespace servolley::net
