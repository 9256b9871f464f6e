// How calls and connections end: broken rules, drain, time.

#include <doctest/doctest.h>

#include <string>

#include "net/http2_link.h"
#include "net/http2_wire.h"

namespace servolley::net::http2_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("http2 end: bad messages end their call only") {
  Link link;
  link.server.message_limit = 1000;
  std::vector<std::pair<std::int32_t, const char*>> bad;
  const auto call = [&](std::string_view bytes, const char* status) {
    const std::int32_t id = link.open(Client::head("/bad"));
    link.Client::send(id, std::string(bytes));
    link.half_close(id);
    bad.emplace_back(id, status);
  };
  call(with_prefix("x", true), "13");                       // compressed without grpc-encoding
  call(std::string("\2\0\0\0\1x", 6), "13");                // unknown flags
  call(with_prefix(std::string(1001, 'x')), "8");           // above the call's limit
  call(std::string("\0\xff\xff\xff\xff", 5), "8");          // 4 GiB
  call(with_prefix("whole") + std::string(3, '\0'), "13");  // ends in a prefix
  call(with_prefix("cut").substr(0, 7), "13");              // ends in a message
  const std::int32_t good = link.open(Client::head("/good"));
  link.say(good, "fine");
  link.run();
  for (const auto& [id, status] : bad) {
    CAPTURE(id);
    CHECK(link.calls.at(id).status() == status);
    CHECK(link.calls.at(id).closed);
    CHECK(link.server.calls.at(static_cast<std::uint32_t>(id)).cancelled);
    CHECK_FALSE(link.server.calls.at(static_cast<std::uint32_t>(id)).half_closed);
  }
  CHECK(link.server.calls.at(static_cast<std::uint32_t>(good)).messages ==
        std::vector<std::string>{"fine"});
  link.finish(static_cast<std::uint32_t>(good));
  link.run();
  CHECK(link.calls.at(good).status() == "0");
  CHECK(link.goaways.empty());
}

TEST_CASE("http2 end: no memory for a message ends its call only") {
  Link link({}, (1u << 31) - 1, {.ceiling_bytes = 1 << 20});
  link.echo();
  const std::int32_t large = link.unary("/large", std::string(2 << 20, 'x'));
  link.run();
  CHECK(link.calls.at(large).status() == "8");
  const std::int32_t small = link.unary("/small", "q");
  link.run();
  CHECK(link.calls.at(small).status() == "0");
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 end: drain, calls under way are finished, calls on the wire too") {
  Link link;
  const std::int32_t first = link.unary("/first", "q");
  link.run();
  link.connection->drain(link.Host::now);
  const std::string notice = link.Host::drink();
  const std::int32_t crossed = link.unary("/crossed", "q");  // before the notice is seen
  link.Host::feed(link.Client::drink());
  link.Client::feed(notice);
  REQUIRE(link.goaways.size() == 1);
  CHECK(link.goaways[0] == std::pair(0x7fffffff, std::uint32_t{NGHTTP2_NO_ERROR}));
  CHECK(link.pings == 1);
  link.run();
  REQUIRE(link.goaways.size() == 2);
  CHECK(link.goaways[1] == std::pair(crossed, std::uint32_t{NGHTTP2_NO_ERROR}));
  CHECK_FALSE(link.connection->wants_close());
  for (const std::int32_t id : {first, crossed}) {
    link.send(static_cast<std::uint32_t>(id), "answer");
    link.finish(static_cast<std::uint32_t>(id));
  }
  link.run();
  CHECK(link.calls.at(first).status() == "0");
  CHECK(link.calls.at(crossed).status() == "0");
  CHECK(link.server.cancels.empty());
  CHECK(link.connection->wants_close());
}

std::size_t goaways_in(const std::string& bytes) {
  std::size_t found = 0;
  for (const WireFrame& f : frames_of(bytes)) found += f.type == NGHTTP2_GOAWAY;
  return found;
}

TEST_CASE("http2 end: drain, an idle connection, and a client that does not answer the PING") {
  const std::string answer =
      frame(NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, std::string("\0\0\0\0\0\0\0\2", 8));
  for (const bool answers : {true, false}) {
    Host host;
    host.feed(greeting());
    host.drink();
    host.connection->drain(host.now);
    CHECK(goaways_in(host.drink()) == 1);
    CHECK_FALSE(host.connection->wants_close());
    REQUIRE(host.connection->next_deadline() == host.now + seconds(1));
    if (answers) {
      host.feed(answer);
    } else {
      host.now += seconds(1);
      host.connection->on_deadline(host.now);
    }
    CHECK(goaways_in(host.drink()) == 1);
    CHECK(host.connection->wants_close());
  }
}

TEST_CASE("http2 end: drain, calls behind the last GOAWAY are not begun") {
  Host host;
  host.feed(greeting() + headers(1, grpc_head()));
  host.connection->drain(host.now);
  host.drink();
  host.feed(frame(NGHTTP2_PING, NGHTTP2_FLAG_ACK, 0, std::string("\0\0\0\0\0\0\0\2", 8)));
  host.drink();
  host.feed(headers(3, grpc_head()) + data(3, with_prefix("x"), true));
  CHECK(host.server.calls.size() == 1);
  host.finish(1);
  host.drink();
  CHECK(host.connection->wants_close());
}

TEST_CASE("http2 end: preface, idle, keepalive") {
  Http2Limits limits;
  limits.idle_timeout = seconds(300);
  limits.keepalive_interval = seconds(100);
  {
    Host host(limits);
    host.drink();
    host.feed(NGHTTP2_CLIENT_MAGIC);
    CHECK(host.connection->next_deadline() == host.now + limits.preface_timeout);
    host.now += limits.preface_timeout;
    host.connection->on_deadline(host.now);
    CHECK(host.connection->wants_close());
  }
  Link link(limits);
  link.run();
  link.unary("/s/m", "q");
  link.run();
  CHECK(link.connection->next_deadline() == link.Host::now + seconds(100));
  link.Host::now += seconds(100);
  link.connection->on_deadline(link.Host::now);
  const std::string ping = link.Host::drink();
  CHECK(link.connection->next_deadline() == link.Host::now + limits.keepalive_timeout);
  link.Client::feed(ping);
  CHECK(link.pings == 1);
  link.run();  // the answer
  CHECK(link.connection->next_deadline() == link.Host::now + seconds(100));
  link.finish(1);
  link.run();
  const TimePoint idle = link.Host::now;
  for (int i = 0; i < 3; ++i) {
    link.Host::now += seconds(100);
    link.connection->on_deadline(link.Host::now);
    if (i < 2) link.run();
  }
  CHECK(link.Host::now == idle + limits.idle_timeout);
  link.run();
  CHECK(link.goaways.size() == 1);
  link.Host::now += seconds(1);
  link.connection->on_deadline(link.Host::now);
  link.Host::drink();
  CHECK(link.connection->wants_close());

  Link gone(limits);
  gone.run();
  gone.unary("/s/m", "q");
  gone.run();
  gone.Host::now += seconds(100);
  gone.connection->on_deadline(gone.Host::now);
  gone.Host::drink();
  gone.Host::now += limits.keepalive_timeout - milliseconds(1);
  gone.connection->on_deadline(gone.Host::now);
  CHECK_FALSE(gone.connection->wants_close());
  gone.Host::now += milliseconds(1);
  gone.connection->on_deadline(gone.Host::now);
  CHECK(gone.connection->wants_close());
  CHECK(gone.server.cancels.size() == 1);
}

TEST_CASE("http2 end: a message that does not arrive") {
  Host host;
  host.echo();
  host.feed(greeting() + settings({{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20}}) +
            window_update(0, 1 << 20) + frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0) +
            headers(1, grpc_head()) + headers(3, grpc_head()) + headers(5, grpc_head()));
  const std::string message = with_prefix(std::string(100'000, 'm'));
  host.feed(data(1, message.substr(0, 100)) + data(3, message.substr(0, 100)));
  host.drink();
  const auto look = [&] {
    REQUIRE(host.connection->next_deadline() <= host.now + seconds(30));
    host.now += seconds(30);
    host.connection->on_deadline(host.now);
    host.drink();
  };
  look();
  CHECK(host.server.cancels.empty());
  host.feed(data(3, message.substr(100, 2000)) + data(5, message.substr(0, 100)));
  look();
  CHECK(host.server.cancels == std::vector<std::uint32_t>{1});
  host.feed(data(3, message.substr(2100)));
  CHECK(host.server.calls[3].messages.size() == 1);
  look();
  CHECK(host.server.cancels == std::vector<std::uint32_t>{1, 5});
  CHECK(host.pool.stats().in_use_bytes == 0);
  host.drink();
  CHECK_FALSE(host.connection->wants_close());
}

}  // namespace
}  // namespace servolley::net::http2_test
