// Clients that mean harm: what each sends is bounded in what it costs, and answered with GOAWAY.

#include <doctest/doctest.h>

#include <string>

#include "net/http2_link.h"
#include "net/http2_wire.h"

namespace servolley::net::http2_test {
namespace {

constexpr int kCalm = NGHTTP2_ENHANCE_YOUR_CALM;

// A server that has greeted the client, whose answers are collected.
struct Victim : Host {
  explicit Victim(const Http2Limits& limits = {}, Pool::Options memory = {})
      : Host(limits, memory) {
    feed(greeting() + frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0));
    drink();
  }
  // Feeds until the server has had enough; how many times it was.
  std::size_t flood(std::size_t times, const std::function<std::string(std::size_t)>& next) {
    for (std::size_t i = 0; i < times; ++i) {
      feed(next(i));
      answer += drink();
      if (connection->wants_close()) return i + 1;
    }
    return times;
  }
  std::string answer;
};

std::uint32_t id_of(std::size_t i) { return static_cast<std::uint32_t>(2 * i + 1); }

TEST_CASE("http2 flood: 100,000 calls that are reset at once") {
  Victim victim;
  victim.echo();
  const std::size_t sent = victim.flood(100'000, [](std::size_t i) {
    return headers(id_of(i), grpc_head()) + data(id_of(i), with_prefix("work")) + reset(id_of(i));
  });
  CHECK(sent <= 2002);
  CHECK(goaway_error(victim.answer) == kCalm);
  CHECK(victim.server.cancels.size() == victim.server.calls.size());
  CHECK(victim.connection->open_streams() <= 1);
  CHECK(victim.pool.stats().in_use_bytes == 0);
  const std::size_t calls = victim.server.calls.size();
  victim.feed(headers(id_of(200'000), grpc_head()));
  CHECK(victim.server.calls.size() == calls);
}

TEST_CASE("http2 flood: resets in one large read") {
  Victim victim;
  std::string bytes;
  for (std::size_t i = 0; i < 20'000; ++i) {
    bytes += headers(id_of(i), grpc_head()) + reset(id_of(i));
  }
  victim.feed(bytes);
  CHECK(goaway_error(victim.drink()) == kCalm);
  CHECK(victim.connection->wants_close());
  CHECK(victim.server.calls.size() <= 2002);
  CHECK(victim.server.cancels.size() == victim.server.calls.size());
}

TEST_CASE("http2 flood: a slow trickle of resets is a client's right") {
  Victim victim;
  const std::size_t sent = victim.flood(20'000, [&](std::size_t i) {
    victim.now += std::chrono::milliseconds(1);
    return headers(id_of(i), grpc_head()) + reset(id_of(i));
  });
  CHECK(sent == 20'000);
  CHECK_FALSE(victim.connection->wants_close());
}

TEST_CASE("http2 flood: resets that the client provokes") {
  const std::pair<const char*, std::function<std::string(std::uint32_t)>> provocations[] = {
      {"window beyond 2^31", [](std::uint32_t id) { return window_update(id, 0x7fffffff); }},
      {"malformed trailers",
       [](std::uint32_t id) { return headers(id, literal("UPPER", "x"), 5); }},
      {"bad message flags",
       [](std::uint32_t id) { return data(id, std::string("\7\0\0\0\0", 5)); }},
      {"truncated message", [](std::uint32_t id) { return data(id, std::string(3, '\0'), true); }},
  };
  for (const auto& [name, provoke] : provocations) {
    INFO(name);
    Victim victim;
    const std::size_t sent = victim.flood(
        100'000, [&](std::size_t i) { return headers(id_of(i), grpc_head()) + provoke(id_of(i)); });
    CHECK(sent <= 2002);
    CHECK(goaway_error(victim.answer) == kCalm);
    CHECK(victim.server.cancels.size() == victim.server.calls.size());
  }
}

TEST_CASE("http2 flood: malformed heads") {
  Victim victim;
  const std::size_t sent = victim.flood(100'000, [&](std::size_t i) {
    return headers(id_of(i), literal(":method", "POST") + literal("bad name", "x"));
  });
  CHECK(sent <= 2002);
  CHECK(goaway_error(victim.answer) == kCalm);
  CHECK(victim.server.calls.empty());
}

TEST_CASE("http2 flood: PING") {
  Victim victim;
  const std::string ping = frame(NGHTTP2_PING, 0, 0, "12345678");
  CHECK(victim.flood(100'000, [&](std::size_t) { return ping; }) <= 2002);
  CHECK(goaway_error(victim.answer) == kCalm);
  // Without reading the answers, too.
  Victim deaf;
  for (int i = 0; i < 100'000; ++i) deaf.feed(ping);
  CHECK(goaway_error(deaf.drink()) == kCalm);
}

TEST_CASE("http2 flood: a PING for each answer is how clients measure") {
  Link link;
  link.echo();
  for (int i = 0; i < 5000; ++i) {
    link.unary("/s/m", "q");
    nghttp2_submit_ping(link.session, NGHTTP2_FLAG_NONE, nullptr);
    link.run();
  }
  CHECK(link.goaways.empty());
  Host host;  // the same with calls that fail, and a window update each
  host.feed(greeting());
  host.server.call_hook = [](std::uint32_t) { return not_found("no"); };
  for (std::size_t i = 0; i < 5000; ++i) {
    host.feed(headers(id_of(i), grpc_head(), 5) + window_update(0, 1));
    host.drink();
  }
  CHECK_FALSE(host.connection->wants_close());
  CHECK(host.server.calls.size() == 5000);
}

TEST_CASE("http2 flood: SETTINGS") {
  Victim victim;
  std::size_t i = 0;
  CHECK(victim.flood(100'000, [&](std::size_t) {
    return settings({{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 65535 + (++i % 2)},
                     {NGHTTP2_SETTINGS_HEADER_TABLE_SIZE, i % 2 ? 4096 : 0}});
  }) <= 2002);
  CHECK(goaway_error(victim.answer) == kCalm);
  Victim long_frame;
  std::string entries;
  for (int k = 0; k < 10'000; ++k) entries += number(4, 2) + number(65535, 4);
  long_frame.feed(frame(NGHTTP2_SETTINGS, 0, 0, entries));
  CHECK(goaway_error(long_frame.drink()) > 0);
  CHECK(long_frame.connection->wants_close());
}

TEST_CASE("http2 flood: CONTINUATION") {
  for (const bool empty : {true, false}) {
    CAPTURE(empty);
    Victim victim;
    victim.feed(headers(1, grpc_head(), 0));
    const std::string part = empty ? "" : literal("x-filler", std::string(1000, 'y'));
    const std::size_t sent =
        victim.flood(100'000, [&](std::size_t) { return frame(NGHTTP2_CONTINUATION, 0, 1, part); });
    CHECK(sent <= 10);
    CHECK(goaway_error(victim.answer) == kCalm);
    CHECK(victim.server.calls.empty());
  }
  // Behind a head that is refused already, nghttp2 is the one who counts.
  Victim refused;
  refused.feed(headers(1, literal("bad name", "x"), 0));
  CHECK(refused.flood(100'000,
                      [&](std::size_t) { return frame(NGHTTP2_CONTINUATION, 0, 1, ""); }) <= 200);
  CHECK(goaway_error(refused.answer) == kCalm);
}

TEST_CASE("http2 flood: a head in a few parts is nothing unusual, byte by byte") {
  Host host;
  host.echo();
  const std::string head = grpc_head();
  std::string bytes = greeting() + headers(1, head.substr(0, 20), 0);
  for (std::size_t i = 0; i < 6; ++i) {
    bytes += frame(NGHTTP2_CONTINUATION, 0, 1, head.substr(20 + 5 * i, 5));
  }
  bytes += frame(NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 1, head.substr(50)) +
           data(1, with_prefix("x"), true);
  for (const char byte : bytes) host.feed({&byte, 1});
  CHECK(host.server.calls.at(1).messages == std::vector<std::string>{"x"});
}

TEST_CASE("http2 flood: empty DATA") {
  Victim victim;
  victim.feed(headers(1, grpc_head()));
  CHECK(victim.flood(100'000, [](std::size_t) { return data(1, ""); }) <= 2002);
  CHECK(goaway_error(victim.answer) == kCalm);
  CHECK(victim.server.cancels == std::vector<std::uint32_t>{1});
}

TEST_CASE("http2 flood: window updates") {
  Victim victim;
  victim.feed(headers(1, grpc_head()));
  CHECK(victim.flood(100'000, [](std::size_t i) { return window_update(i % 2, 1); }) <= 2002);
  CHECK(goaway_error(victim.answer) == kCalm);
}

TEST_CASE("http2 flood: resets of what is long over") {
  Victim victim;
  victim.feed(headers(1, grpc_head()) + reset(1));
  CHECK(victim.flood(100'000, [](std::size_t) { return reset(1); }) <= 2002);
  CHECK(goaway_error(victim.answer) == kCalm);
}

TEST_CASE("http2 flood: frames that mean nothing are skipped and leave nothing behind") {
  Victim victim;
  victim.echo();
  const std::size_t sent = victim.flood(100'000, [](std::size_t i) {
    return frame(NGHTTP2_PRIORITY, 0, id_of(i), number(0, 4) + "\x10") +
           frame(0xfa, 0, id_of(i), "unknown");
  });
  CHECK(sent == 100'000);
  CHECK(victim.answer.empty());
  CHECK(victim.pool.stats().in_use_bytes == 0);
  victim.feed(headers(1, grpc_head()) + data(1, with_prefix("x"), true));
  CHECK(victim.server.calls.at(1).messages == std::vector<std::string>{"x"});
}

TEST_CASE("http2 flood: an HPACK bomb") {
  Victim victim;
  // One entry of 4000 bytes, then named again and again: one byte each.
  std::string block = std::string("\x40\x01x") + "\x7f\xa1\x1e" + std::string(4000, 'y');
  block += std::string(200'000, '\xbe');
  victim.feed(headers(1, grpc_head() + block));
  CHECK(goaway_error(victim.drink()) == kCalm);
  CHECK(victim.server.calls.empty());
  CHECK(victim.connection->wants_close());
}

TEST_CASE("http2 flood: metadata above the announced size") {
  Victim victim;
  victim.echo();
  victim.feed(headers(1, grpc_head() + literal("x-large", std::string(17 << 10, 'v')), 5));
  victim.feed(headers(3, grpc_head() + literal("x-small", std::string(12 << 10, 'v')), 5));
  auto answers = answers_of(victim.drink());
  CHECK(answers[1].field("grpc-status") == "8");
  CHECK(answers[3].field("grpc-status") == "0");
  CHECK(victim.server.calls.count(1) == 0);
}

TEST_CASE("http2 flood: more streams than announced") {
  Http2Limits limits;
  limits.concurrent_streams = 100;
  Host early(limits);  // the client has not seen the limit yet
  early.feed(greeting());
  for (std::size_t i = 0; i < 300; ++i) early.feed(headers(id_of(i), grpc_head()));
  std::size_t refused = 0;
  for (const WireFrame& f : frames_of(early.drink())) {
    if (f.type == NGHTTP2_RST_STREAM) refused += f.payload == number(NGHTTP2_REFUSED_STREAM, 4);
  }
  CHECK(refused == 200);
  CHECK(early.server.calls.size() == 100);
  CHECK_FALSE(early.connection->wants_close());
  Victim late(limits);
  for (std::size_t i = 0; i < 300; ++i) late.feed(headers(id_of(i), grpc_head()));
  CHECK(goaway_error(late.drink()) == NGHTTP2_PROTOCOL_ERROR);
  CHECK(late.server.calls.size() == 100);
  CHECK(late.server.cancels.size() == 100);
}

TEST_CASE("http2 flood: large messages that are announced and never sent") {
  Http2Limits limits;
  limits.buffered_message_bytes = 64 << 20;
  Victim victim(limits);
  std::size_t refused = 0;
  for (std::size_t i = 0; i < 1000; ++i) {
    victim.feed(headers(id_of(i), grpc_head()) + data(id_of(i), '\0' + number(10 << 20, 4) + "x"));
    refused = victim.server.cancels.size();
    CHECK(victim.pool.stats().in_use_bytes <= 80 << 20);
    victim.drink();
  }
  CHECK(refused == 1000 - 6);
  victim.connection->received_eof(victim.now);
  CHECK(victim.server.cancels.size() == 1000);
  CHECK(victim.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 flood: not HTTP/2 at all") {
  for (const char* bytes : {"GET / HTTP/1.1\r\nHost: h\r\n\r\n", "\x16\x03\x01\x02\x00\x01",
                            "PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"}) {
    Host host;
    host.feed({bytes, std::strlen(bytes)});
    CHECK(host.connection->wants_close());
  }
  Host no_settings;
  no_settings.feed(NGHTTP2_CLIENT_MAGIC + data(1, "x"));
  CHECK(goaway_error(no_settings.drink()) == NGHTTP2_PROTOCOL_ERROR);
  CHECK(no_settings.connection->wants_close());
}

}  // namespace
}  // namespace servolley::net::http2_test
