#include <nghttp2/nghttp2.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "net/http2_connection.h"
#include "net/http2_status.h"

namespace servolley::net {
namespace {

// Frames are taken from nghttp2 while less than this waits for the socket: what is not framed yet
// can still be overtaken by other calls, or dropped with its own.
constexpr std::size_t kFramedBytes = 1 << 20;
// Larger answers, and streams of answers, take turns.
constexpr std::size_t kFairBytes = 64 << 10;
constexpr std::size_t kFieldsMax = 32;

constexpr std::uint8_t kStatic = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE;

nghttp2_nv field(std::string_view name, std::string_view value, std::uint8_t flags) {
  // nghttp2_nv is for both directions and so has no const.
  const auto bytes = [](std::string_view text) {
    return reinterpret_cast<std::uint8_t*>(const_cast<char*>(text.data()));
  };
  return {bytes(name), bytes(value), name.size(), value.size(), flags};
}

struct Fields {
  std::array<nghttp2_nv, kFieldsMax> list;
  std::size_t count = 0;
  void add(std::string_view name, std::string_view value, std::uint8_t flags) {
    if (count < list.size()) list[count++] = field(name, value, flags);
  }
};

const char* encoding_name(MessageCoding coding) {
  return coding == MessageCoding::kGzip ? "gzip" : "deflate";
}

// The end of a call as fields; views into the stream.
void add_trailers(const Http2Stream& stream, Fields& fields) {
  fields.add("grpc-status", grpc_status_text(stream.code), kStatic);
  const std::string_view text = stream.trailer_text;
  if (stream.message_bytes) {
    // Never the same twice: it shall not push the others out of the peer's table.
    fields.add("grpc-message", text.substr(0, stream.message_bytes),
               NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX);
  }
  std::size_t at = stream.message_bytes;
  for (const auto& [name_size, value_size] : stream.extra) {
    fields.add(text.substr(at, name_size), text.substr(at + name_size, value_size),
               NGHTTP2_NV_FLAG_NONE);
    at += name_size + value_size;
  }
}

void keep_end(Http2Stream& stream, const Status& status, std::span<const Header> extra) {
  stream.code = status.code();
  stream.trailer_text.clear();
  if (!status.ok()) append_grpc_message(status.message(), stream.trailer_text);
  stream.message_bytes = stream.trailer_text.size();
  stream.extra.clear();
  for (const Header& header : extra) {
    stream.trailer_text.append(header.name).append(header.value);
    stream.extra.emplace_back(header.name.size(), header.value.size());
  }
}

}  // namespace

void Http2Connection::Impl::send_message(std::uint32_t id, Payload& body, MessageCoding coding) {
  Http2Stream* const stream = reading() ? find(id) : nullptr;
  if (!stream || stream->ended) return body.clear();
  const bool compressed = coding != MessageCoding::kIdentity;
  if (!stream->responded && compressed) stream->response_coding = coding;
  if (body.size() > 0xffff'ffff || (compressed && coding != stream->response_coding)) {
    body.clear();
    return fail_call(*stream, internal_error("an answer that gRPC cannot carry"));
  }
  const std::size_t before = stream->outbox.size();
  if (unsent() == 0) write_since = now;
  const bool added = stream->outbox.add_message(body, compressed, pool);
  waiting += stream->outbox.size() - before;
  if (!added) {
    body.clear();
    return abort();
  }
  if (!stream->fair && (stream->responded || stream->outbox.size() > kFairBytes)) {
    stream->fair = true;
    const nghttp2_extpri turns{NGHTTP2_EXTPRI_DEFAULT_URGENCY, 1};
    nghttp2_session_change_extpri_stream_priority(session, static_cast<std::int32_t>(id), &turns,
                                                  1);
  }
  if (!stream->responded) return submit_head(*stream);
  if (std::exchange(stream->deferred, false)) {
    nghttp2_session_resume_data(session, static_cast<std::int32_t>(id));
  }
}

void Http2Connection::Impl::submit_head(Http2Stream& stream) {
  stream.responded = true;
  Fields fields;
  fields.add(":status", "200", kStatic);
  fields.add("content-type", "application/grpc", kStatic);
  if (stream.response_coding != MessageCoding::kIdentity) {
    fields.add("grpc-encoding", encoding_name(stream.response_coding), kStatic);
  }
  nghttp2_data_provider messages_provider;
  messages_provider.source.ptr = &stream;
  messages_provider.read_callback = [](nghttp2_session*, std::int32_t, std::uint8_t*,
                                       std::size_t room, std::uint32_t* flags,
                                       nghttp2_data_source* source, void* user) -> ssize_t {
    return static_cast<Impl*>(user)->read_messages(*static_cast<Http2Stream*>(source->ptr), room,
                                                   flags);
  };
  nghttp2_submit_response(session, static_cast<std::int32_t>(stream.id), fields.list.data(),
                          fields.count, &messages_provider);
}

ssize_t Http2Connection::Impl::read_messages(Http2Stream& stream, std::size_t room,
                                             std::uint32_t* flags) {
  const std::size_t bytes = std::min(room, stream.outbox.size());
  if (stream.silent || (bytes == 0 && !stream.ended)) {
    stream.deferred = true;
    return NGHTTP2_ERR_DEFERRED;
  }
  *flags = NGHTTP2_DATA_FLAG_NO_COPY;
  if (stream.ended && bytes == stream.outbox.size()) {
    *flags |= NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM;
    submit_trailers(stream);
  }
  return static_cast<ssize_t>(bytes);
}

bool Http2Connection::Impl::frame_messages(Http2Stream& stream, const std::uint8_t* frame_head,
                                           std::size_t bytes) {
  constexpr std::size_t kFrameHeadBytes = 9;
  waiting -= bytes;
  return output.copy(frame_head, kFrameHeadBytes) && stream.outbox.move_to(output, bytes);
}

void Http2Connection::Impl::submit_trailers(Http2Stream& stream) {
  Fields fields;
  add_trailers(stream, fields);
  nghttp2_submit_trailer(session, static_cast<std::int32_t>(stream.id), fields.list.data(),
                         fields.count);
}

void Http2Connection::Impl::finish(std::uint32_t id, const Status& status,
                                   std::span<const Header> extra) {
  // Whoever finishes a call is not told of its end any more, even if the answer comes too late.
  std::replace(cancelled.begin(), cancelled.end(), id, std::uint32_t{0});
  Http2Stream* const stream = find(id);
  if (!stream || stream->ended) return;
  stream->reported = false;
  if (reading()) answer_end(*stream, status, extra);
}

void Http2Connection::Impl::answer_end(Http2Stream& stream, const Status& status,
                                       std::span<const Header> extra) {
  stream.ended = true;
  keep_end(stream, status, extra);
  drop_memory(stream);  // `status` may lie in it
  if (stream.responded) {
    if (std::exchange(stream.deferred, false)) {
      nghttp2_session_resume_data(session, static_cast<std::int32_t>(stream.id));
    }
    return;
  }
  stream.responded = true;
  Fields fields;
  fields.add(":status", "200", kStatic);
  fields.add("content-type", "application/grpc", kStatic);
  add_trailers(stream, fields);
  nghttp2_submit_response(session, static_cast<std::int32_t>(stream.id), fields.list.data(),
                          fields.count, nullptr);
}

void Http2Connection::Impl::refuse_http(Http2Stream& stream, int status) {
  stream.ended = stream.responded = true;
  Fields fields;
  fields.add(":status", status == 405 ? "405" : "415", kStatic);
  if (status == 405) fields.add("allow", "POST", kStatic);
  nghttp2_submit_response(session, static_cast<std::int32_t>(stream.id), fields.list.data(),
                          fields.count, nullptr);
}

bool Http2Connection::Impl::framed_enough() const { return output.size() >= kFramedBytes; }

void Http2Connection::Impl::pull() {
  if (in_session || dead) return;
  in_session = true;
  bool failed = false;
  const bool was_empty = unsent() == 0;
  while (!framed_enough()) {
    const std::uint8_t* frame = nullptr;
    const ssize_t bytes = nghttp2_session_mem_send(session, &frame);
    if (bytes > 0 && output.copy(frame, static_cast<std::size_t>(bytes))) continue;
    failed = bytes != 0;
    break;
  }
  in_session = false;
  if (was_empty) write_since = now;
  if (failed) abort();
}

}  // namespace servolley::net
