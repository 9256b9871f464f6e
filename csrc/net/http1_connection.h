#pragma once

// The state of an Http1Connection. http1_reading.cc has the way in, http1.cc the way out and time.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "memory/buffer_writer.h"
#include "net/http1.h"
#include "net/http1_answers.h"
#include "net/http1_chunks.h"
#include "net/http1_head.h"

namespace servolley::net {

struct Http1Connection::Impl {
  enum class Reading : std::uint8_t {
    kHead,     // between calls, or in a head
    kBody,     // in a Content-Length body
    kChunks,   // in a chunked body
    kDiscard,  // in the body of a refused call
    kNothing,  // no more calls; whatever comes is ignored
  };

  // A call whose body has not arrived yet.
  struct Call {
    Buffer head_owner;  // of the copy that `head` points into
    RequestHead head;
    bool last = false;         // no call is accepted behind it
    bool owes_100 = false;     // waits for an interim response
    Buffer body;               // kBody
    std::size_t offset = 0;    // of the body in its buffer
    std::size_t expected = 0;  // kBody: bytes in all
    std::size_t filled = 0;
    std::optional<ChunkDecoder> chunks;  // kChunks
  };

  Impl(Http1Handler& handler_in, Pool& pool_in, ReadScratch& scratch_in,
       const Http1Limits& limits_in, TimePoint now)
      : handler(handler_in),
        pool(pool_in),
        scratch(scratch_in),
        limits(limits_in),
        answers(pool_in),
        idle_since(now),
        // Whoever reads on while paused() does not make us keep more than this.
        stored(pool_in, 2 * (limits_in.header_bytes + 2 * scratch_in.size)) {
    limits.exchanges = std::max<std::size_t>(limits.exchanges, 1);
  }

  // ---- reading
  std::span<std::byte> receive_space();
  void received(std::size_t bytes, TimePoint now);
  void received_eof();
  std::size_t consume(char* bytes, std::size_t size, TimePoint now);
  void consume_stored(TimePoint now);
  void keep(const std::byte* bytes, std::size_t size, TimePoint now);
  bool make_room();
  void after_read(TimePoint now);

  // ---- calls
  std::size_t begin_call(std::span<char> head_bytes, std::string_view rest, TimePoint now);
  bool begin_body(const ParsedHead& parsed, std::string_view head_bytes, std::string_view rest,
                  const BodyPlan& plan, std::uint64_t limit, TimePoint now);
  bool keep_head(const RequestHead& head, std::string_view bytes);
  void body_received(std::size_t bytes, TimePoint now);
  std::size_t feed_chunks(std::string_view bytes, TimePoint now);
  void finish_call(std::span<const std::byte> body, Buffer owner);
  void dispatch(const RequestHead& head, bool last, std::span<const std::byte> body, Buffer owner);
  void fail(int status, std::string_view message, TimePoint now, bool head_only = false);
  void refuse(int status, std::string_view message, std::uint64_t body_left, TimePoint now,
              bool head_only);
  void discard(std::size_t bytes);
  void end_reading();
  void abort();

  // ---- answering
  void answer(std::uint64_t exchange, const ResponseHead& head, Payload& body, TimePoint now);
  void sent(std::size_t bytes, TimePoint now);
  void take_output(Payload& output, TimePoint now);
  void output_left(bool was_paused, TimePoint now);
  void send_100(TimePoint now);
  void restart_clocks(bool was_paused, TimePoint now);

  // ---- waiting
  bool paused() const {
    return answers.open_count() >= limits.exchanges || answers.unsent_bytes() > limits.unsent_bytes;
  }
  bool in_head() const { return reading == Reading::kHead && unparsed() > 0 && !paused(); }
  bool in_body() const {
    return (reading == Reading::kBody || reading == Reading::kChunks) && !paused() &&
           !call.owes_100;
  }
  bool idle() const {
    return reading == Reading::kHead && unparsed() == 0 && answers.open_count() == 0 &&
           !answers.has_output();
  }
  std::size_t unparsed() const { return stored.size() - stored_begin; }

  Http1Handler& handler;
  Pool& pool;
  ReadScratch& scratch;
  Http1Limits limits;
  AnswerQueue answers;

  Reading reading = Reading::kHead;
  bool draining = false;
  bool peer_done = false;
  bool parsing = false;       // on the stack: on_request may call us
  bool skipped_line = false;  // one empty line before a request line is tolerated
  HeadScanner scanner;
  Call call;
  std::size_t progress = 0;  // bytes of the body since body_since
  std::uint64_t discard_left = 0;

  TimePoint head_since = kNever;  // kNever: no head has begun
  TimePoint body_since = kNever;
  TimePoint idle_since;
  TimePoint write_since = kNever;
  TimePoint linger_until = kNever;

  // Bytes that wait for more of their head or chunk, or for a pause to end.
  BufferWriter stored;
  std::size_t stored_begin = 0;
};

}  // namespace servolley::net
