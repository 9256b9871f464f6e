// Who waits for whom: windows, back-pressure, cancels.

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
    const TimePoint stalled_since = link.Host::now;
    while (link.Host::now < stalled_since + limits.write_timeout) {
      link.Client::feed(link.Host::drink());
      CHECK(link.calls.at(1).error == NGHTTP2_NO_ERROR);
      REQUIRE(link.connection->next_deadline() > link.Host::now);
      link.Host::now = link.connection->next_deadline();
      link.connection->on_deadline(link.Host::now);
    }
    CHECK(link.Host::now == stalled_since + limits.write_timeout);
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
  const std::int32_t streaming = link.unary("/streaming", "q");
  link.run();
  link.send(static_cast<std::uint32_t>(streaming), "half of it");
  link.send(static_cast<std::uint32_t>(answered), "on its way");
  link.finish(static_cast<std::uint32_t>(answered));
  link.connection->received_eof(link.Host::now);
  std::sort(link.server.cancels.begin(), link.server.cancels.end());
  CHECK(link.server.cancels == std::vector<std::uint32_t>{static_cast<std::uint32_t>(waits),
                                                          static_cast<std::uint32_t>(streaming)});
  link.finish(static_cast<std::uint32_t>(waits));
  CHECK_FALSE(link.connection->wants_close());
  link.Client::feed(link.Host::drink());
  CHECK(link.calls[streaming].status().empty());  // it did not end well
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

}  // namespace
}  // namespace servolley::net::http2_test
