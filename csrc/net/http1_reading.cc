#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <utility>

#include "net/http1_connection.h"
#include "net/http1_render.h"

namespace servolley::net {
namespace {

// What counts as progress in a body; less often than every body_timeout is a trickle.
constexpr std::size_t kProgressBytes = 1024;
// Free room behind bytes that wait for more.
constexpr std::size_t kReadRoom = 1024;
// Of the body of a refused call.
constexpr std::uint64_t kUnknownLength = std::numeric_limits<std::uint64_t>::max();

}  // namespace

std::span<std::byte> Http1Connection::Impl::receive_space() {
  if (reading == Reading::kBody) {
    return {call.body.data() + call.offset + call.filled, call.expected - call.filled};
  }
  if (unparsed() > 0) return {stored.tail(), stored.room()};
  return {scratch.data.get(), scratch.size};
}

void Http1Connection::Impl::received(std::size_t bytes, TimePoint now) {
  if (bytes == 0) return;
  switch (reading) {
    case Reading::kNothing:
      return;
    case Reading::kDiscard:
      return discard(bytes);
    case Reading::kBody:
      call.filled += bytes;
      return body_received(bytes, now);
    case Reading::kHead:
    case Reading::kChunks:
      break;
  }
  if (unparsed() > 0) {
    stored.advance(bytes);
    return consume_stored(now);
  }
  std::byte* const data = scratch.data.get();
  const std::size_t used = consume(reinterpret_cast<char*>(data), bytes, now);
  if (used < bytes) keep(data + used, bytes - used, now);
  after_read(now);
}

// Returns how many bytes were used. The rest waits for more bytes, or for a pause to end.
std::size_t Http1Connection::Impl::consume(char* bytes, std::size_t size, TimePoint now) {
  parsing = true;
  std::size_t used = 0;
  while (used < size) {
    const std::string_view rest(bytes + used, size - used);
    if (reading == Reading::kChunks) {
      used += feed_chunks(rest, now);
      if (reading == Reading::kChunks) break;
      continue;
    }
    if (reading == Reading::kDiscard) {
      discard(rest.size());
      used = size;
      continue;
    }
    if (reading != Reading::kHead || (draining && scanner.fresh())) {
      if (reading == Reading::kHead) end_reading();
      used = size;
      continue;
    }
    if (paused()) break;
    if (scanner.fresh() && !skipped_line && rest.front() == '\r') {
      if (rest.size() == 1) break;
      if (rest[1] == '\n') {
        skipped_line = true;
        used += 2;
        continue;
      }
    }
    const HeadScanner::Outcome outcome = scanner.scan(rest, limits);
    if (outcome == HeadScanner::Outcome::kMore) break;
    if (outcome == HeadScanner::Outcome::kBad) {
      fail(scanner.failure().status, scanner.failure().message, now);
      used = size;
      continue;
    }
    const std::size_t head_size = scanner.end();
    scanner.reset();
    skipped_line = false;
    head_since = kNever;
    used += head_size;
    used += begin_call({bytes + used - head_size, head_size}, rest.substr(head_size), now);
  }
  parsing = false;
  return used;
}

void Http1Connection::Impl::consume_stored(TimePoint now) {
  char* const data = reinterpret_cast<char*>(stored.data());
  stored_begin += consume(data + stored_begin, unparsed(), now);
  if (unparsed() > 0 && !make_room()) fail(503, "out of memory for requests", now);
  after_read(now);
}

// Puts away what a read left over.
void Http1Connection::Impl::keep(const std::byte* bytes, std::size_t size, TimePoint now) {
  if (stored.reserve(size + kReadRoom).ok()) {
    stored.append_reserved(bytes, size);
  } else {
    fail(503, "out of memory for requests", now);
  }
}

// The next read goes behind the stored bytes.
bool Http1Connection::Impl::make_room() {
  if (stored.room() >= kReadRoom) return true;
  if (const std::size_t left = unparsed(); stored_begin >= left) {
    std::memmove(stored.data(), stored.data() + stored_begin, left);
    stored.clear();
    stored.advance(left);
    stored_begin = 0;
  }
  return stored.reserve(kReadRoom).ok();
}

void Http1Connection::Impl::after_read(TimePoint now) {
  if (peer_done && !paused()) end_reading();
  if (draining && reading == Reading::kHead && scanner.fresh()) end_reading();
  if (reading == Reading::kNothing || reading == Reading::kDiscard || unparsed() == 0) {
    if (stored.data()) stored.take();
    stored_begin = 0;
  }
  if (in_head() && head_since == kNever) head_since = now;
}

void Http1Connection::Impl::received_eof() {
  peer_done = true;
  // Calls that were read before a pause are still answered.
  const bool more_to_parse = reading == Reading::kHead && unparsed() > 0 && paused();
  if (!more_to_parse) end_reading();
}

// ------------------------------------------------------------------------------------------ calls

// Returns how many bytes of `rest` belong to the call.
std::size_t Http1Connection::Impl::begin_call(std::span<char> head_bytes, std::string_view rest,
                                              TimePoint now) {
  HeaderRoom room;
  ParsedHead parsed;
  if (const HttpFailure failure = parse_head(head_bytes, limits, room, parsed)) {
    fail(failure.status, failure.message, now);
    return rest.size();
  }
  const RequestHead& head = parsed.head;
  const std::uint64_t length = head.content_length.value_or(0);
  // What of the body is still to come.
  std::uint64_t body_left = length > rest.size() ? length - rest.size() : 0;
  if (head.chunked) body_left = kUnknownLength;
  if (parsed.expects_continue && rest.empty()) body_left = 0;  // it waits for our word

  const bool head_only = head.method == "HEAD";
  if (length > limits.body_bytes) {
    refuse(413, "the request body is larger than allowed", body_left, now, head_only);
    return rest.size();
  }
  const BodyPlan plan = handler.plan_body(head);
  if (!plan.refusal.ok()) {
    refuse(http_status(plan.refusal.code()), plan.refusal.message(), body_left, now, head_only);
    return rest.size();
  }
  const std::uint64_t limit = std::min(plan.limit_bytes, limits.body_bytes);
  if (length > limit) {
    refuse(413, "the request body is larger than allowed", body_left, now, head_only);
    return rest.size();
  }
  if (!head.chunked && length <= rest.size()) {
    const auto* body = reinterpret_cast<const std::byte*>(rest.data());
    dispatch(head, parsed.close || draining, {body, static_cast<std::size_t>(length)}, {});
    return static_cast<std::size_t>(length);
  }
  if (!begin_body(parsed, {head_bytes.data(), head_bytes.size()}, rest, plan, limit, now)) {
    refuse(503, "out of memory for request bodies", body_left, now, head_only);
    return rest.size();
  }
  return head.chunked ? 0 : rest.size();
}

bool Http1Connection::Impl::begin_body(const ParsedHead& parsed, std::string_view head_bytes,
                                       std::string_view rest, const BodyPlan& plan,
                                       std::uint64_t limit, TimePoint now) {
  if (!keep_head(parsed.head, head_bytes)) return false;
  if (parsed.head.chunked) {
    call.chunks.emplace(pool, limit, plan.align_at, limits);
    reading = Reading::kChunks;
  } else {
    call.offset = (64 - plan.align_at % 64) % 64;
    call.expected = static_cast<std::size_t>(*parsed.head.content_length);
    if (call.expected > std::numeric_limits<std::size_t>::max() - 64) return false;
    auto body = pool.allocate_announced(call.offset + call.expected);
    if (!body) return false;
    call.body = std::move(*body);
    std::copy(rest.begin(), rest.end(), reinterpret_cast<char*>(call.body.data()) + call.offset);
    call.filled = rest.size();
    reading = Reading::kBody;
  }
  call.last = parsed.close || draining;
  body_since = now;
  progress = 0;
  call.owes_100 = parsed.expects_continue && rest.empty();
  send_100(now);
  return true;
}

// The head outlives the read that brought it: its text and headers go into one small buffer.
bool Http1Connection::Impl::keep_head(const RequestHead& head, std::string_view bytes) {
  const std::size_t header_bytes = head.headers.size_bytes();
  auto owner = pool.allocate(header_bytes + bytes.size());
  if (!owner) return false;
  auto* const headers = reinterpret_cast<Header*>(owner->data());
  char* const text = reinterpret_cast<char*>(owner->data() + header_bytes);
  std::copy(bytes.begin(), bytes.end(), text);
  const auto moved = [&](std::string_view view) -> std::string_view {
    return {text + (view.data() - bytes.data()), view.size()};
  };
  std::size_t count = 0;
  for (const Header& header : head.headers) {
    std::construct_at(headers + count++, Header{moved(header.name), moved(header.value)});
  }
  call.head = head;
  call.head.method = moved(head.method);
  call.head.target = moved(head.target);
  call.head.headers = {headers, count};
  call.head_owner = std::move(*owner);
  return true;
}

void Http1Connection::Impl::body_received(std::size_t bytes, TimePoint now) {
  call.owes_100 = false;
  progress += bytes;
  if (progress >= kProgressBytes) {
    progress = 0;
    body_since = now;
  }
  if (reading == Reading::kBody && call.filled == call.expected) {
    const std::span<const std::byte> body(call.body.data() + call.offset, call.expected);
    finish_call(body, std::move(call.body));
  }
}

std::size_t Http1Connection::Impl::feed_chunks(std::string_view bytes, TimePoint now) {
  ChunkDecoder& chunks = *call.chunks;
  const std::size_t used = chunks.feed(bytes);
  if (const HttpFailure failure = chunks.failure()) {
    const bool head_only = call.head.method == "HEAD";
    if (failure.status == 400) {
      fail(failure.status, failure.message, now, head_only);
    } else {
      refuse(failure.status, failure.message, kUnknownLength, now, head_only);
    }
    return bytes.size();
  }
  body_received(used, now);
  if (chunks.done()) {
    const std::span<const std::byte> body = chunks.body();
    finish_call(body, chunks.take());
  }
  return used;
}

void Http1Connection::Impl::finish_call(std::span<const std::byte> body, Buffer owner) {
  const Call done = std::exchange(call, Call{});
  reading = Reading::kHead;
  dispatch(done.head, done.last, body, std::move(owner));
}

void Http1Connection::Impl::dispatch(const RequestHead& head, bool last,
                                     std::span<const std::byte> body, Buffer owner) {
  if (last) end_reading();
  const std::uint64_t exchange = answers.open(head.method == "HEAD");
  handler.on_request({exchange, head, body, std::move(owner)});
}

// Answers in its turn, and closes.
void Http1Connection::Impl::fail(int status, std::string_view message, TimePoint now,
                                 bool head_only) {
  end_reading();
  ResponseHead head{.status = status, .content_type = "application/json", .close = true};
  if (status == 503) head.extra = "Retry-After: 1\r\n";
  const std::string json = error_json(message);
  Payload body;
  body.add_static(json);
  answer(answers.open(head_only), head, body, now);
}

// As fail(); for a call whose client may be sending its body without looking for an answer.
void Http1Connection::Impl::refuse(int status, std::string_view message, std::uint64_t body_left,
                                   TimePoint now, bool head_only) {
  fail(status, message, now, head_only);
  if (body_left == 0 || peer_done || reading != Reading::kNothing) return;
  reading = Reading::kDiscard;
  discard_left = body_left;
  linger_until = now + limits.linger_timeout;
}

void Http1Connection::Impl::discard(std::size_t bytes) {
  discard_left -= std::min<std::uint64_t>(bytes, discard_left);
  if (discard_left == 0) end_reading();
}

// Safe while bytes are being parsed: consume() stops, and its caller puts the memory away.
void Http1Connection::Impl::end_reading() {
  reading = Reading::kNothing;
  head_since = kNever;
  linger_until = kNever;
  call = Call{};
  if (!parsing && stored.data()) {
    stored.take();
    stored_begin = 0;
  }
}

void Http1Connection::Impl::abort() {
  end_reading();
  answers.abort();
}

}  // namespace servolley::net
