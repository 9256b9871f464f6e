// Who waits for whom: windows, back-pressure, cancels, drain, deadlines.

#include <doctest/doctest.h>

#include <string>

#include "net/http2_link.h"
#include "net/http2_wire.h"

namespace servolley::net::http2_test {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("http2 flow: a large upload through a small window") {
  Http2Limits limits;
  limits.stream_window_bytes = 65535;
  limits.connection_window_bytes = 65535;
  Link link(limits);
  link.echo();
  const std::string message(5'000'000, 'm');
  const std::int32_t id = link.unary("/s/m", message);
  link.run();
  CHECK(link.calls.at(id).body == with_prefix(message));
  CHECK(link.calls.at(id).status() == "0");
}

TEST_CASE("http2 flow: a large answer through a small window") {
  Link link({}, 65535);
  link.echo();
  const std::string message(5'000'000, 'm');
  const std::int32_t id = link.unary("/s/m", message);
  link.run();
  CHECK(link.calls.at(id).body == with_prefix(message));
  CHECK(link.calls.at(id).status() == "0");
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 flow: padding does not eat the window") {
  Http2Limits limits;
  limits.stream_window_bytes = 65535;
  limits.connection_window_bytes = 65535;
  Host host(limits);
  host.feed(greeting() + headers(1, grpc_head()));
  const std::string message = with_prefix(std::string(100, 'p'));
  std::size_t connection_window = 65535;
  for (int i = 0; i < 5000; ++i) {
    const std::string padded = std::string(1, '\xff') + message + std::string(255, '\0');
    REQUIRE(connection_window >= padded.size());
    connection_window -= padded.size();
    host.feed(frame(NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1, padded));
    for (const WireFrame& f : frames_of(host.drink())) {
      if (f.type != NGHTTP2_WINDOW_UPDATE || f.stream != 0) continue;
      std::size_t more = 0;
      for (const char c : f.payload) more = more << 8 | static_cast<unsigned char>(c);
      connection_window += more;
    }
  }
  CHECK(host.server.messages == 5000);
}

TEST_CASE("http2 flow: small calls are answered between the frames of a large answer") {
  Link link;
  const std::string large(6 << 20, 'l');
  link.server.half_close_hook = [&](std::uint32_t stream) {
    link.send(stream, link.server.calls[stream].path == "/large" ? large : "small");
    link.finish(stream);
  };
  const std::int32_t first = link.unary("/large", "q");
  link.Host::feed(link.Client::drink());
  link.Client::feed(link.Host::drink(1 << 20));
  const std::int32_t second = link.unary("/small", "q");
  link.Host::feed(link.Client::drink());
  link.Client::feed(link.Host::drink(3 << 20));
  CHECK(link.calls[second].closed);
  CHECK_FALSE(link.calls[first].closed);
  link.run();
  CHECK(link.calls[first].body.size() == large.size() + 5);
}

TEST_CASE("http2 flow: a client that does not read is not read") {
  Http2Limits limits;
  limits.unsent_bytes = 100'000;
  Link link(limits);
  link.echo();
  link.run();
  const std::string message(30'000, 'm');
  std::size_t calls = 0;
  while (link.connection->wants_read()) {
    REQUIRE(calls++ < 100);
    link.unary("/s/m", message);
    link.Host::feed(link.Client::drink());
  }
  CHECK(calls <= 5);
  CHECK(link.connection->has_output());
  // Read all the same: the messages wait, and so do the client's windows.
  for (int i = 0; i < 200; ++i) {
    link.unary("/s/m", message);
    link.Host::feed(link.Client::drink());
  }
  CHECK(link.server.messages <= 5);
  CHECK(link.pool.stats().in_use_bytes < 20 << 20);
  link.run();
  CHECK(link.server.messages == calls + 200);
  for (const auto& [id, call] : link.calls) CHECK(call.status() == "0");
  CHECK(link.connection->wants_read());
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 flow: a client whose window stays closed holds no more than the limits") {
  Http2Limits limits;
  limits.unsent_bytes = 100'000;
  limits.connection_window_bytes = 1 << 20;
  Link link(limits, 0);
  link.echo();
  const std::string message(30'000, 'm');
  for (int i = 0; i < 500; ++i) {
    link.unary("/s/m", message);
    link.Host::feed(link.Client::drink());
    link.Client::feed(link.Host::drink());
  }
  // Its WINDOW_UPDATEs must still be heard.
  CHECK(link.connection->wants_read());
  CHECK(link.server.messages <= 5);
  CHECK(link.pool.stats().in_use_bytes < 4 << 20);
  SUBCASE("it opens") {
    const nghttp2_settings_entry open{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 20};
    nghttp2_submit_settings(link.session, NGHTTP2_FLAG_NONE, &open, 1);
    nghttp2_session_set_local_window_size(link.session, NGHTTP2_FLAG_NONE, 0, 1 << 30);
    link.run();
    CHECK(link.server.messages == 500);
    for (const auto& [id, call] : link.calls) CHECK(call.status() == "0");
    CHECK(link.pool.stats().in_use_bytes == 0);
  }
  SUBCASE("it does not: its calls are dropped, the others go on") {
    REQUIRE(link.connection->next_deadline() == link.Host::now + limits.write_timeout);
    link.Host::now += limits.write_timeout;
    link.connection->on_deadline(link.Host::now);
    link.Client::feed(link.Host::drink());
    std::size_t dropped = 0;
    for (const auto& [id, call] : link.calls) dropped += call.error == NGHTTP2_CANCEL;
    CHECK(dropped >= 3);
    CHECK(link.server.cancels.empty());  // they were answered
    CHECK_FALSE(link.connection->wants_close());
  }
  SUBCASE("it leaves") {
    link.connection->received_eof(link.Host::now);
    CHECK(link.connection->wants_close());
    CHECK(link.pool.stats().in_use_bytes < 200'000);
  }
}

TEST_CASE("http2 flow: a stream of answers sees how much of it waits") {
  Link link({}, 1000);
  std::uint32_t stream = 0;
  link.server.half_close_hook = [&](std::uint32_t id) { stream = id; };
  const std::int32_t id = link.unary("/s/m", "q");
  link.run();
  CHECK(link.connection->unsent_bytes(stream) == 0);
  link.send(stream, std::string(4995, 'a'));
  CHECK(link.connection->unsent_bytes(stream) == 5000);
  link.Client::feed(link.Host::drink());
  CHECK(link.connection->unsent_bytes(stream) == 4000);
  link.run();
  CHECK(link.connection->unsent_bytes(stream) == 0);
  CHECK(link.connection->unsent_bytes(99) == 0);
  link.finish(stream);
  link.run();
  CHECK(link.calls.at(id).messages().at(0).size() == 4995);
}

TEST_CASE("http2 flow: a socket that takes nothing is given up") {
  Link link;
  link.echo();
  link.server.call_hook = [&](std::uint32_t) { return Status(); };
  link.unary("/s/m", "q");
  const std::int32_t waits = link.open(Client::head("/s/other"));
  link.Host::feed(link.Client::drink());
  const TimePoint began = link.Host::now;
  CHECK(link.connection->next_deadline() == began + seconds(60));
  link.Host::now += seconds(59);
  link.connection->on_deadline(link.Host::now);
  CHECK_FALSE(link.connection->wants_close());
  CHECK(!link.Host::drink(10).empty());  // progress
  CHECK(link.connection->next_deadline() == link.Host::now + seconds(60));
  link.Host::now += seconds(60);
  link.connection->on_deadline(link.Host::now);
  CHECK(link.connection->wants_close());
  CHECK_FALSE(link.connection->has_output());
  CHECK(link.server.cancels == std::vector<std::uint32_t>{static_cast<std::uint32_t>(waits)});
  CHECK(link.connection->next_deadline() == kNever);
}

TEST_CASE("http2 flow: cancels") {
  Link link;
  const std::int32_t in_head = link.open(Client::head("/head"));
  const std::int32_t in_message = link.open(Client::head("/message"));
  link.Client::send(in_message, with_prefix(std::string(100'000, 'm')).substr(0, 50'000));
  const std::int32_t working = link.unary("/working", "q");
  const std::int32_t answering = link.unary("/answering", "q");
  const std::int32_t finished = link.unary("/finished", "q");
  link.run();
  link.send(static_cast<std::uint32_t>(answering), "some");
  link.send(static_cast<std::uint32_t>(finished), std::string(3 << 20, 'f'));
  link.finish(static_cast<std::uint32_t>(finished));
  CHECK(link.pool.stats().in_use_bytes > 0);
  for (const std::int32_t id : {in_head, in_message, working, answering, finished}) link.cancel(id);
  const std::string up = link.Client::drink();
  link.Host::feed(up);
  std::vector<std::uint32_t> cancelled = link.server.cancels;
  std::sort(cancelled.begin(), cancelled.end());
  CHECK(cancelled == std::vector<std::uint32_t>{1, 3, 5, 7});  // not the finished one
  CHECK(link.connection->open_streams() == 0);
  CHECK(link.pool.stats().in_use_bytes == 0);
  // Late answers are for nobody.
  link.send(static_cast<std::uint32_t>(working), "late");
  link.finish(static_cast<std::uint32_t>(working));
  link.run();
  CHECK(link.calls[working].messages().empty());
  link.echo();
  const std::int32_t next = link.unary("/next", "q");
  link.run();
  CHECK(link.calls.at(next).status() == "0");
}

TEST_CASE("http2 flow: answering other calls, and the same one, from inside on_cancel") {
  Link link;
  const std::int32_t a = link.unary("/a", "q");
  const std::int32_t b = link.unary("/b", "q");
  link.run();
  link.server.cancel_hook = [&](std::uint32_t stream) {
    link.send(stream, "nobody hears");
    link.finish(stream);
    link.send(static_cast<std::uint32_t>(b), "hears");
    link.finish(static_cast<std::uint32_t>(b));
  };
  link.cancel(a);
  link.run();
  CHECK(link.calls.at(b).messages() == std::vector<std::string>{"hears"});
  CHECK(link.server.cancels.size() == 1);
}

TEST_CASE("http2 flow: whoever finishes a call is not told of its cancel") {
  Host host;
  host.feed(greeting() + headers(1, grpc_head()) + headers(3, grpc_head()));
  host.server.message_hook = [&](std::uint32_t, GrpcMessage&) { host.finish(1); };
  host.feed(reset(1) + data(3, with_prefix("x")));
  CHECK(host.server.cancels.empty());
  host.server.message_hook = [&](std::uint32_t, GrpcMessage&) { host.finish(5); };
  std::string flood = headers(5, grpc_head());
  for (int i = 0; i < 3000; ++i) flood += data(5, "");
  host.server.cancel_hook = [&](std::uint32_t) { host.finish(5); };
  host.feed(flood);
  CHECK(host.connection->wants_close() == false);  // GOAWAY is not sent yet
  host.drink();
  CHECK(host.connection->wants_close());
  std::vector<std::uint32_t> cancelled = host.server.cancels;
  CHECK(cancelled.size() <= 2);
  CHECK(std::count(cancelled.begin(), cancelled.end(), 1u) == 0);
}

TEST_CASE("http2 flow: the end of the connection cancels what has no answer") {
  Link link;
  const std::int32_t waits = link.unary("/waits", "q");
  const std::int32_t answered = link.unary("/answered", "q");
  link.run();
  link.send(static_cast<std::uint32_t>(answered), "on its way");
  link.finish(static_cast<std::uint32_t>(answered));
  link.connection->received_eof(link.Host::now);
  CHECK(link.server.cancels == std::vector<std::uint32_t>{static_cast<std::uint32_t>(waits)});
  link.finish(static_cast<std::uint32_t>(waits));
  CHECK_FALSE(link.connection->wants_close());
  link.Client::feed(link.Host::drink());
  CHECK(link.calls[answered].status() == "0");
  CHECK(link.connection->wants_close());
}

TEST_CASE("http2 flow: a connection that dies with its calls tells nobody") {
  Link link;
  link.unary("/a", std::string(100'000, 'x'));
  link.run();
  link.send(1, std::string(1 << 20, 'y'));
  link.connection.reset();
  CHECK(link.server.cancels.empty());
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 flow: bad messages end their call only") {
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

TEST_CASE("http2 flow: no memory for a message ends its call only") {
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

TEST_CASE("http2 drain: calls under way are finished, calls on the wire too") {
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

TEST_CASE("http2 drain: an idle connection, and a client that does not answer the PING") {
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

TEST_CASE("http2 drain: calls behind the last GOAWAY are not begun") {
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

TEST_CASE("http2 time: preface, idle, keepalive") {
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

}  // namespace
}  // namespace servolley::net::http2_test
