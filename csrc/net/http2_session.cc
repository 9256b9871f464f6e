#include <nghttp2/nghttp2.h>

#include <array>
#include <utility>

#include "net/http2_connection.h"

namespace servolley::net {
namespace {

// CONTINUATION frames of one header block; clients send none.
constexpr unsigned kContinuationsMax = 8;
// A DATA frame as large as a call's usual tensor goes from the kernel to its place in one read.
constexpr std::uint32_t kFrameBytes = 1 << 20;
// Of a header list, in announced sizes, before it is taken for an attack.
constexpr std::size_t kHeaderListFactor = 16;
// The largest DATA frame that we send if the peer takes it.
constexpr std::size_t kSentFrameBytes = 128 << 10;
// Streams that are kept for the next calls.
constexpr std::size_t kSpareStreams = 64;

}  // namespace

struct Http2Connection::Impl::Callbacks {
  static Impl& impl(void* user) { return *static_cast<Impl*>(user); }

  static int begin_frame(nghttp2_session*, const nghttp2_frame_hd* frame, void* user) {
    Impl& c = impl(user);
    switch (frame->type) {
      case NGHTTP2_DATA:
        c.frame_left = frame->flags & NGHTTP2_FLAG_PADDED ? 0 : frame->length;
        c.frame_stream = static_cast<std::uint32_t>(frame->stream_id);
        if (frame->length == 0 && !(frame->flags & NGHTTP2_FLAG_END_STREAM))
          c.count(c.empty_frames);
        break;
      case NGHTTP2_HEADERS:
        c.continuations = 0;
        break;
      case NGHTTP2_CONTINUATION:
        if (++c.continuations > kContinuationsMax) c.calm();
        break;
      default:
        break;
    }
    return 0;
  }

  static int begin_headers(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    Impl& c = impl(user);
    const bool request = frame->headers.cat == NGHTTP2_HCAT_REQUEST;
    c.head.begin(request);
    if (request) c.begin_stream(static_cast<std::uint32_t>(frame->hd.stream_id));
    return 0;
  }

  static int header(nghttp2_session*, const nghttp2_frame*, nghttp2_rcbuf* name,
                    nghttp2_rcbuf* value, std::uint8_t, void* user) {
    Impl& c = impl(user);
    if (!c.reading()) return 0;
    c.head.add(name, value);
    if (c.head.list_bytes() > kHeaderListFactor * c.limits.header_list_bytes) c.calm();
    return 0;
  }

  static int frame_received(nghttp2_session*, const nghttp2_frame* frame, void* user) {
    Impl& c = impl(user);
    if (!c.reading()) return 0;
    const auto id = static_cast<std::uint32_t>(frame->hd.stream_id);
    switch (frame->hd.type) {
      case NGHTTP2_DATA:
        c.frame_left = 0;
        if (frame->hd.flags & NGHTTP2_FLAG_END_STREAM) {
          if (Http2Stream* stream = c.find(id)) c.on_half_close(*stream);
        }
        break;
      case NGHTTP2_HEADERS:
        if (Http2Stream* stream = c.find(id)) {
          const bool last = frame->hd.flags & NGHTTP2_FLAG_END_STREAM;
          stream->half_closed |= last;
          if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) c.begin_call(*stream);
          if (last) c.on_half_close(*stream);
        }
        c.head.clear();
        break;
      case NGHTTP2_RST_STREAM:
        c.count(c.find(id) ? c.resets : c.small_frames);
        break;
      case NGHTTP2_PING:
        if (!(frame->hd.flags & NGHTTP2_FLAG_ACK)) {
          c.count(c.pings);
        } else if (c.draining) {
          c.finish_drain();
        }
        break;
      case NGHTTP2_SETTINGS:
        c.greeted = true;
        if (!(frame->hd.flags & NGHTTP2_FLAG_ACK)) c.count(c.settings);
        break;
      default:
        c.count(c.small_frames);
        break;
    }
    return 0;
  }

  static int data_chunk(nghttp2_session*, std::uint8_t, std::int32_t id, const std::uint8_t* data,
                        std::size_t bytes, void* user) {
    Impl& c = impl(user);
    if (!c.reading()) return 0;
    c.frame_left -= std::min(bytes, c.frame_left);
    if (Http2Stream* stream = c.find(static_cast<std::uint32_t>(id))) {
      c.on_data(*stream, {reinterpret_cast<const std::byte*>(data), bytes});
    } else {
      c.unconsumed += bytes;
    }
    return 0;
  }

  static int stream_closed(nghttp2_session*, std::int32_t id, std::uint32_t, void* user) {
    Impl& c = impl(user);
    if (Http2Stream* stream = c.find(static_cast<std::uint32_t>(id))) {
      c.on_reset(*stream);
      c.forget(*stream);
    }
    return 0;
  }

  static int frame_sent(nghttp2_session* session, const nghttp2_frame* frame, void* user) {
    Impl& c = impl(user);
    switch (frame->hd.type) {
      case NGHTTP2_HEADERS:
        c.credit_answer();
        if (!(frame->hd.flags & NGHTTP2_FLAG_END_STREAM)) break;
        if (const Http2Stream* stream = c.find(static_cast<std::uint32_t>(frame->hd.stream_id));
            stream && !stream->half_closed) {
          // Answered in full: whatever the client is still sending is of no use.
          nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                    NGHTTP2_NO_ERROR);
        }
        break;
      case NGHTTP2_DATA:
        c.credit_answer();
        break;
      case NGHTTP2_RST_STREAM:
        // Resets that the client provokes are as good as resets that it sends.
        if (frame->rst_stream.error_code != NGHTTP2_NO_ERROR &&
            frame->rst_stream.error_code != NGHTTP2_CANCEL) {  // those two are ours
          c.count(c.resets);
        }
        break;
      case NGHTTP2_GOAWAY:
        c.closing |= frame->goaway.error_code != NGHTTP2_NO_ERROR;
        break;
      default:
        break;
    }
    return 0;
  }

  // A header block that nghttp2 does not take, because it is too large: the call cannot be ended as
  // it should.
  static int frame_not_sent(nghttp2_session* session, const nghttp2_frame* frame, int error,
                            void* user) {
    if (frame->hd.type == NGHTTP2_HEADERS && error == NGHTTP2_ERR_FRAME_SIZE_ERROR &&
        !impl(user).closing) {
      nghttp2_submit_rst_stream(session, NGHTTP2_FLAG_NONE, frame->hd.stream_id,
                                NGHTTP2_INTERNAL_ERROR);
    }
    return 0;
  }

  static int send_data(nghttp2_session*, nghttp2_frame* frame, const std::uint8_t* head,
                       std::size_t bytes, nghttp2_data_source*, void* user) {
    Impl& c = impl(user);
    Http2Stream* const stream = c.find(static_cast<std::uint32_t>(frame->hd.stream_id));
    if (!stream || !c.frame_messages(*stream, head, bytes)) return NGHTTP2_ERR_CALLBACK_FAILURE;
    // Otherwise nghttp2 would go on as long as it has such frames.
    return c.framed_enough() ? NGHTTP2_ERR_PAUSE : 0;
  }

  static ssize_t frame_length(nghttp2_session*, std::uint8_t, std::int32_t, std::int32_t,
                              std::int32_t, std::uint32_t peer_frame_bytes, void*) {
    return static_cast<ssize_t>(std::min<std::size_t>(peer_frame_bytes, kSentFrameBytes));
  }
};

bool Http2Connection::Impl::open_session() {
  nghttp2_session_callbacks* raw_callbacks = nullptr;
  if (nghttp2_session_callbacks_new(&raw_callbacks) != 0) return false;
  const std::unique_ptr<nghttp2_session_callbacks, decltype(&nghttp2_session_callbacks_del)>
      callbacks(raw_callbacks, &nghttp2_session_callbacks_del);
  nghttp2_session_callbacks_set_on_begin_frame_callback(raw_callbacks, &Callbacks::begin_frame);
  nghttp2_session_callbacks_set_on_begin_headers_callback(raw_callbacks, &Callbacks::begin_headers);
  nghttp2_session_callbacks_set_on_header_callback2(raw_callbacks, &Callbacks::header);
  nghttp2_session_callbacks_set_on_frame_recv_callback(raw_callbacks, &Callbacks::frame_received);
  nghttp2_session_callbacks_set_on_data_chunk_recv_callback(raw_callbacks, &Callbacks::data_chunk);
  nghttp2_session_callbacks_set_on_stream_close_callback(raw_callbacks, &Callbacks::stream_closed);
  nghttp2_session_callbacks_set_on_frame_send_callback(raw_callbacks, &Callbacks::frame_sent);
  nghttp2_session_callbacks_set_on_frame_not_send_callback(raw_callbacks,
                                                           &Callbacks::frame_not_sent);
  nghttp2_session_callbacks_set_send_data_callback(raw_callbacks, &Callbacks::send_data);
  nghttp2_session_callbacks_set_data_source_read_length_callback(raw_callbacks,
                                                                 &Callbacks::frame_length);

  nghttp2_option* raw_options = nullptr;
  if (nghttp2_option_new(&raw_options) != 0) return false;
  const std::unique_ptr<nghttp2_option, decltype(&nghttp2_option_del)> options(raw_options,
                                                                               &nghttp2_option_del);
  nghttp2_option_set_no_auto_window_update(raw_options, 1);
  nghttp2_option_set_no_closed_streams(raw_options, 1);
  // Counted here, by our clock. nghttp2 also counts every part of a split CONTINUATION header.
  nghttp2_option_set_stream_reset_rate_limit(raw_options, 1 << 30, 1 << 30);
  nghttp2_option_set_max_continuations(raw_options, 16 * kContinuationsMax);

  if (nghttp2_session_server_new3(&session, raw_callbacks, this, raw_options,
                                  frame_memory.interface()) != 0)
    return false;
  const std::array<nghttp2_settings_entry, 5> entries = {{
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, limits.concurrent_streams},
      {NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, limits.stream_window_bytes},
      {NGHTTP2_SETTINGS_MAX_FRAME_SIZE, kFrameBytes},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, limits.header_list_bytes},
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1},
  }};
  return nghttp2_submit_settings(session, NGHTTP2_FLAG_NONE, entries.data(), entries.size()) == 0 &&
         nghttp2_session_set_local_window_size(
             session, NGHTTP2_FLAG_NONE, 0,
             static_cast<std::int32_t>(limits.connection_window_bytes)) == 0;
}

Http2Stream* Http2Connection::Impl::find(std::uint32_t stream) {
  if (recent && recent->id == stream) return recent;
  if (!session) return nullptr;
  recent = static_cast<Http2Stream*>(
      nghttp2_session_get_stream_user_data(session, static_cast<std::int32_t>(stream)));
  return recent;
}

void Http2Connection::Impl::begin_stream(std::uint32_t id) {
  Http2Stream* stream = spare_streams;
  if (stream) {
    spare_streams = stream->next;
    --spare_count;
  } else {
    stream = new Http2Stream;
  }
  stream->id = id;
  stream->previous = nullptr;
  stream->next = streams;
  if (streams) streams->previous = stream;
  streams = stream;
  ++stream_count;
  last_stream = std::max(last_stream, id);
  nghttp2_session_set_stream_user_data(session, static_cast<std::int32_t>(id), stream);
}

void Http2Connection::Impl::forget(Http2Stream& stream) {
  recent = nullptr;
  drop_memory(stream);
  waiting -= stream.outbox.size();
  stream.outbox.clear();
  (stream.previous ? stream.previous->next : streams) = stream.next;
  if (stream.next) stream.next->previous = stream.previous;
  if (--stream_count == 0) idle_since = now;
  if (spare_count == kSpareStreams) {
    delete &stream;
    return;
  }
  stream.reported = stream.ended = stream.half_closed = stream.responded = false;
  stream.deferred = stream.fair = stream.silent = stream.watched = false;
  stream.parked = 0;
  stream.response_coding = MessageCoding::kIdentity;
  stream.unconsumed = 0;
  stream.progress = 0;
  if (stream.trailer_text.capacity() > 256) stream.trailer_text.shrink_to_fit();
  stream.trailer_text.clear();
  stream.message_bytes = 0;
  stream.extra.clear();
  stream.next = spare_streams;
  spare_streams = &stream;
  ++spare_count;
}

void Http2Connection::Impl::calm() {
  if (closing) return;
  closing = true;
  nghttp2_session_terminate_session2(session, static_cast<std::int32_t>(last_stream),
                                     NGHTTP2_ENHANCE_YOUR_CALM);
}

void Http2Connection::Impl::count(RateLimit& limit) {
  if (!limit.allow(now)) calm();
}

// A client may measure, and open its windows, with every frame that it is answered.
void Http2Connection::Impl::credit_answer() {
  pings.credit();
  small_frames.credit();
  small_frames.credit();
}

}  // namespace servolley::net
