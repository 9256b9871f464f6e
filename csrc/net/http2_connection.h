#pragma once

// The state of an Http2Connection. http2_session.cc speaks with nghttp2, http2_reading.cc has the
// way in, http2_sending.cc the way out, http2.cc time and the public face.

#include <nghttp2/nghttp2.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "net/http2.h"
#include "net/http2_floods.h"
#include "net/http2_head.h"
#include "net/http2_inbox.h"
#include "net/http2_memory.h"
#include "net/http2_outbox.h"
#include "net/http2_output.h"

namespace servolley::net {

// One call, from its first header field until nghttp2 forgets the stream.
struct Http2Stream {
  std::uint32_t id = 0;
  bool reported = false;     // the handler knows of it and has not been told of its end
  bool ended = false;        // answered, or given up: nothing more is sent behind what is queued
  bool half_closed = false;  // the client will send no more
  bool responded = false;    // the response's header is submitted
  bool deferred = false;     // nghttp2 waits for resume_data
  bool fair = false;         // takes turns with other streams
  bool silent = false;       // given up: nothing more is sent at all
  MessageCoding request_coding = MessageCoding::kIdentity;
  MessageCoding response_coding = MessageCoding::kIdentity;
  std::uint64_t message_limit = 0;
  std::size_t unconsumed = 0;     // bytes of the window that were not given back yet
  std::size_t progress = 0;       // bytes received since the last look at messages
  bool watched = false;           // the message under way was there at the last look
  bool held = false;              // by the handler
  bool half_close_waits = false;  // behind the backlog
  std::size_t parked = 0;         // how often it is in Impl::parked: newer than the backlog
  // What came while the call was held. In order, like everything of one call: it goes on growing
  // until it is delivered.
  std::vector<GrpcMessage> backlog;
  std::size_t first_waiting = 0;  // in the backlog
  Inbox inbox;
  Outbox outbox;
  // The end, once `ended`, while messages are still to be sent.
  Code code = Code::kOk;
  std::string trailer_text;  // grpc-message, then names and values of further trailers
  std::size_t message_bytes = 0;
  std::vector<std::pair<std::uint32_t, std::uint32_t>> extra;  // lengths of name and value
  Http2Stream* previous = nullptr;
  Http2Stream* next = nullptr;

  bool waits() const { return held || first_waiting != backlog.size() || half_close_waits; }
};

struct Http2Connection::Impl {
  Impl(Http2Handler& handler, Pool& pool, ReadScratch& scratch, const Http2Limits& limits,
       TimePoint now);
  ~Impl();
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;

  // ---- nghttp2 (http2_session.cc)
  struct Callbacks;
  bool open_session();
  Http2Stream* find(std::uint32_t stream);
  void forget(Http2Stream& stream);
  // The peer misuses the protocol: GOAWAY ENHANCE_YOUR_CALM, and nothing more is read.
  void calm();
  void count(RateLimit& limit);
  void credit_answer();

  // ---- reading (http2_reading.cc)
  std::span<std::byte> receive_space();
  void received(std::size_t bytes);
  void received_eof();
  void begin_stream(std::uint32_t stream);
  void begin_call(Http2Stream& stream);
  void on_data(Http2Stream& stream, std::span<const std::byte> data);
  void on_half_close(Http2Stream& stream);
  void on_reset(Http2Stream& stream);
  void deliver(Http2Stream& stream, GrpcMessage&& message);
  void deliver_parked();
  void deliver_backlogs();
  // False: there is no room for more answers.
  bool deliver_backlog(std::uint32_t stream);
  void let_go(std::uint32_t stream);
  void consume(Http2Stream& stream, std::size_t bytes);
  void give_windows_back();
  // Calls whose message under way made no progress since the last look are ended.
  void look_at_messages();
  // The client broke the rules of one call: answered by us, and the handler is told of its end.
  void fail_call(Http2Stream& stream, const Status& status);

  // ---- sending (http2_sending.cc)
  void send_message(std::uint32_t stream, Payload& body, MessageCoding coding);
  void finish(std::uint32_t stream, const Status& status, std::span<const Header> extra);
  void answer_end(Http2Stream& stream, const Status& status, std::span<const Header> extra);
  void refuse_http(Http2Stream& stream, int status);
  void submit_head(Http2Stream& stream);
  void submit_trailers(Http2Stream& stream);
  ssize_t read_messages(Http2Stream& stream, std::size_t room, std::uint32_t* flags);
  bool frame_messages(Http2Stream& stream, const std::uint8_t* head, std::size_t bytes);
  // Takes frames from nghttp2 as long as there is a use for them.
  void pull();
  bool framed_enough() const;
  std::size_t unsent() const { return waiting + output.size(); }
  bool over_limit() const { return unsent() > limits.unsent_bytes; }

  // ---- ends (http2.cc)
  // After anything that nghttp2 was told: parked messages, windows, frames, calls that are over.
  void settle();
  void report_cancelled();
  // Every call that has no answer is over.
  void give_up_calls();
  void give_up(Http2Stream& stream);
  void drop_memory(Http2Stream& stream);
  // Nothing more is read or sent.
  void abort();
  // Output without progress: what the socket does not take ends the connection, what waits for the
  // peer's windows ends its calls.
  void drop_stalled();
  void begin_drain();
  void finish_drain();
  void ping(std::uint64_t payload);
  bool has_output();
  bool wants_read();
  bool wants_close();
  // Calls are taken, and answered.
  bool reading() const { return !dead && !closing && !peer_done; }

  // A message that waits is counted with what it costs besides its bytes.
  static std::size_t counted(const GrpcMessage& message) {
    constexpr std::size_t kOverhead = 256;
    return message.bytes.size() + kOverhead;
  }
  // A message, or the half-close behind it, that waits until there is room for its answer.
  struct Parked {
    std::uint32_t stream = 0;
    bool half_close = false;
    GrpcMessage message;
  };

  Http2Handler& handler;
  Pool& pool;
  ReadScratch& scratch;
  Http2Limits limits;
  FrameMemory frame_memory;  // outlives the session, and the fields in `head`
  nghttp2_session* session = nullptr;
  TimePoint now;

  // ---- streams
  Http2Stream* streams = nullptr;  // open
  std::size_t stream_count = 0;
  Http2Stream* recent = nullptr;  // the last one that was asked for
  Http2Stream* spare_streams = nullptr;
  std::size_t spare_count = 0;
  std::uint32_t last_stream = 0;
  HeadReader head;
  unsigned continuations = 0;

  // ---- reading
  MessageMemory messages;
  std::size_t frame_left = 0;  // of the payload of the DATA frame under way
  std::uint32_t frame_stream = 0;
  std::byte* space = nullptr;  // what receive_space() returned
  std::size_t unconsumed = 0;  // bytes of the connection's window that were not given back yet
  std::size_t window_step;     // windows are given back in steps of this
  bool windows_dry = false;    // streams have more than a step of theirs
  std::vector<Parked> parked;
  std::size_t first_parked = 0;
  std::vector<std::uint32_t> let_go_streams;  // their backlogs may be delivered

  // ---- sending
  FrameOutput output;
  std::size_t waiting = 0;               // bytes in all outboxes
  std::vector<std::uint32_t> cancelled;  // to be reported; 0: not any more

  // ---- ends
  bool in_session = false;  // nghttp2 is on the stack
  bool settling = false;
  bool dead = false;
  bool closing = false;  // GOAWAY with an error: closed as soon as that is sent
  bool peer_done = false;
  bool draining = false;
  bool drained = false;  // the last GOAWAY is submitted
  bool greeted = false;  // the client's SETTINGS are here
  bool pinged = false;   // a keepalive PING has no answer yet
  TimePoint opened;
  TimePoint last_read;
  TimePoint last_ping;
  TimePoint idle_since;
  TimePoint write_since;
  TimePoint drain_since;
  TimePoint looked_at_messages;

  RateLimit resets;
  RateLimit pings;
  RateLimit settings;
  RateLimit empty_frames;
  RateLimit small_frames;  // WINDOW_UPDATE and the like
};

}  // namespace servolley::net
