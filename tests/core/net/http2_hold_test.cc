// Calls that the handler holds back while it has too many of their messages.

#include <doctest/doctest.h>

#include <random>
#include <string>

#include "net/http2_link.h"

namespace servolley::net::http2_test {
namespace {

std::uint32_t of(std::int32_t id) { return static_cast<std::uint32_t>(id); }

TEST_CASE("http2 hold: a held call is not reported, the others are") {
  Link link;
  link.server.message_hook = [&](std::uint32_t stream, const GrpcMessage&) {
    if (link.server.calls[stream].path == "/held") link.connection->hold(stream);
  };
  const std::int32_t held = link.open(Client::head("/held"));
  const std::int32_t other = link.open(Client::head("/other"));
  for (const char* const text : {"1", "2", "", "4"}) {
    link.say(held, text);
    link.say(other, text);
  }
  link.half_close(held);
  link.half_close(other);
  link.run();
  SeenStream& seen = link.server.calls[of(held)];
  CHECK(seen.messages == std::vector<std::string>{"1"});
  CHECK_FALSE(seen.half_closed);
  CHECK(link.server.calls[of(other)].messages.size() == 4);
  CHECK(link.server.calls[of(other)].half_closed);

  // One at a time, as the hook holds it again.
  link.connection->let_go(of(held));
  CHECK(seen.messages.size() == 1);  // not from inside
  link.connection->sent(0, link.now);
  CHECK(seen.messages == std::vector<std::string>{"1", "2"});
  link.server.message_hook = {};
  link.connection->let_go(of(held));
  link.connection->sent(0, link.now);
  CHECK(seen.messages == std::vector<std::string>{"1", "2", "", "4"});
  CHECK(seen.half_closed);
  link.finish(of(held));
  link.finish(of(other));
  link.run();
  CHECK(link.calls[held].status() == "0");
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 hold: the call's window runs dry, the connection's does not") {
  Http2Limits limits;
  limits.stream_window_bytes = 100'000;
  limits.connection_window_bytes = 200'000;
  Link link(limits);
  link.echo();
  link.run();
  const auto echo = link.server.message_hook;
  link.server.message_hook = [&](std::uint32_t stream, GrpcMessage& message) {
    if (link.server.calls[stream].path == "/held") link.connection->hold(stream);
    echo(stream, message);
  };
  const std::int32_t held = link.open(Client::head("/held"));
  const std::int32_t other = link.open(Client::head("/other"));
  const std::string message(1000, 'm');
  for (int i = 0; i < 5000; ++i) link.say(held, message);
  link.half_close(held);
  link.run();
  CHECK(link.server.calls[of(held)].messages.size() == 1);
  CHECK(link.connection->wants_read());
  CHECK(link.pool.stats().in_use_bytes < 3 * limits.stream_window_bytes);
  for (int i = 0; i < 5000; ++i) link.say(other, message);
  link.half_close(other);
  link.run();
  CHECK(link.calls[other].messages().size() == 5000);
  CHECK(link.calls[other].status() == "0");
  CHECK(link.server.calls[of(held)].messages.size() == 1);

  link.server.message_hook = echo;
  link.connection->let_go(of(held));
  link.connection->sent(0, link.now);
  link.run();
  CHECK(link.calls[held].messages() == std::vector<std::string>(5000, message));
  CHECK(link.calls[held].status() == "0");
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 hold: what waits is limited, and ends only the call that is over") {
  Http2Limits limits;
  limits.buffered_message_bytes = 100'000;
  Link link(limits);
  link.server.message_hook = [&](std::uint32_t stream, const GrpcMessage&) {
    if (link.server.calls[stream].path == "/held") link.connection->hold(stream);
  };
  link.server.half_close_hook = [&](std::uint32_t stream) { link.finish(stream); };
  const std::int32_t held = link.open(Client::head("/held"));
  for (int i = 0; i < 1000; ++i) link.say(held, "");
  link.run();
  CHECK(link.calls[held].status() == "8");
  CHECK(link.server.calls[of(held)].cancelled);
  CHECK(link.server.calls[of(held)].messages.size() == 1);
  const std::int32_t next = link.unary("/other", std::string(90'000, 'n'));
  link.run();
  CHECK(link.calls[next].status() == "0");
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 hold: a held call that is cancelled, answered or lost leaves nothing behind") {
  for (int end = 0; end < 3; ++end) {
    CAPTURE(end);
    Link link;
    link.server.message_hook = [&](std::uint32_t stream, const GrpcMessage&) {
      link.connection->hold(stream);
    };
    const std::int32_t id = link.open(Client::head("/held"));
    for (int i = 0; i < 100; ++i) link.say(id, std::string(3000, 'm'));
    link.half_close(id);
    link.run();
    CHECK(link.pool.stats().in_use_bytes > 250'000);
    if (end == 0) {
      link.cancel(id);
    } else if (end == 1) {
      link.connection->let_go(of(id));
      link.finish(of(id));
    } else {
      link.connection->received_eof(link.now);
    }
    link.run();
    link.connection->sent(0, link.now);
    CHECK(link.server.calls[of(id)].cancelled == (end != 1));
    CHECK(link.server.calls[of(id)].messages.size() == 1);
    CHECK_FALSE(link.server.calls[of(id)].half_closed);
    CHECK(link.pool.stats().in_use_bytes == 0);
    link.connection->let_go(of(id));  // of a call that is gone
    link.connection->hold(of(id));
    link.connection->sent(0, link.now);
  }
}

TEST_CASE("http2 hold: time does not run against a message that must wait for its window") {
  Http2Limits limits;
  limits.stream_window_bytes = 65535;
  Link link(limits);
  link.server.message_hook = [&](std::uint32_t stream, const GrpcMessage&) {
    link.connection->hold(stream);
  };
  const std::int32_t id = link.open(Client::head("/held"));
  link.say(id, "first");
  link.say(id, std::string(200'000, 'l'));
  link.run();
  for (int i = 0; i < 4; ++i) {
    link.now += limits.message_timeout;
    link.connection->on_deadline(link.now);
    link.run();
  }
  CHECK_FALSE(link.calls[id].closed);
  link.server.message_hook = {};
  link.connection->let_go(of(id));
  link.connection->sent(0, link.now);
  link.run();
  CHECK(link.server.calls[of(id)].messages.size() == 2);
}

// However calls are held, and whatever waits for room, every message arrives once and in order.
TEST_CASE("http2 hold: order survives everything") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto below = [&](unsigned n) { return static_cast<std::size_t>(random() % n); };
    Http2Limits limits;
    limits.unsent_bytes = 20'000;
    limits.stream_window_bytes = 65535;
    Link link(limits, 65535);
    std::map<std::uint32_t, std::size_t> taken;
    link.server.message_hook = [&](std::uint32_t stream, const GrpcMessage& message) {
      ++taken[stream];
      if (below(4) == 0) link.connection->hold(stream);
      link.send(stream, text_of(message.bytes));
    };
    link.server.half_close_hook = [&](std::uint32_t stream) { link.finish(stream); };
    std::map<std::int32_t, std::vector<std::string>> said;
    for (int i = 0; i < 4; ++i) said[link.open(Client::head("/s"))];
    for (int step = 0; step < 400; ++step) {
      auto at = said.begin();
      std::advance(at, below(4));
      at->second.push_back(std::to_string(step) + std::string(below(3) ? 10 : below(3000), 'x'));
      link.say(at->first, at->second.back());
      if (below(3) == 0) link.Host::feed(link.Client::drink());
      if (below(5) == 0) link.Client::feed(link.Host::drink(below(8000)));
      if (below(3) == 0)
        link.connection->let_go(of(std::next(said.begin(), static_cast<int>(below(4)))->first));
    }
    for (const auto& [id, messages] : said) link.half_close(id);
    for (int round = 0; round < 2000; ++round) {
      link.run();
      bool all = true;
      for (const auto& [id, messages] : said) {
        all &= link.calls[id].closed;
        link.connection->let_go(of(id));
      }
      if (all) break;
      link.connection->sent(0, link.now);
    }
    for (const auto& [id, messages] : said) {
      CHECK(link.calls[id].messages() == messages);
      CHECK(link.calls[id].status() == "0");
      CHECK(taken[of(id)] == messages.size());
    }
    CHECK(link.pool.stats().in_use_bytes == 0);
  }
}

}  // namespace
}  // namespace servolley::net::http2_test
