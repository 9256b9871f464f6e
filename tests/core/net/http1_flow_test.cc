// When a connection reads, waits and closes.

#include <doctest/doctest.h>

#include "net/http1_link.h"
#include "net/http1_streams.h"

namespace servolley::net {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

std::string numbered(int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += get("/" + std::to_string(i));
  return text;
}

TEST_CASE("too many calls without an answer pause reading; what was read is parsed later") {
  Link link({.limits = {.exchanges = 3}});
  link.read(numbered(10));
  CHECK(link.recorder.calls.size() == 3);
  CHECK(link.connection.open_exchanges() == 3);
  CHECK_FALSE(link.connection.wants_read());
  CHECK(link.connection.next_deadline() == kNever);

  // The handler is not called from inside respond().
  link.respond(link.recorder.calls[0].exchange);
  CHECK(link.recorder.calls.size() == 3);
  link.pump();
  CHECK(link.recorder.calls.size() == 4);
  CHECK_FALSE(link.connection.wants_read());
  for (std::size_t i = 1; i < 10; ++i) {
    REQUIRE(link.recorder.calls.size() > i);
    CHECK(link.connection.open_exchanges() <= 3);
    link.respond(link.recorder.calls[i].exchange);
    link.pump();
  }
  CHECK(link.recorder.calls.size() == 10);
  CHECK(link.recorder.calls[9].target == "/9");
  CHECK(link.connection.wants_read());
  CHECK(link.replies().list.size() == 10);
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("a handler that answers at once is called again from sent(), without recursion") {
  Link link({.limits = {.exchanges = 1}});
  std::size_t depth = 0;
  std::size_t deepest = 0;
  link.recorder.on_call = [&](HttpRequest& request) {
    deepest = std::max(deepest, ++depth);
    if (link.recorder.calls.size() > 1) link.respond(request.exchange);
    --depth;
  };
  link.read(numbered(50));
  CHECK(link.recorder.calls.size() == 1);
  link.respond(link.recorder.calls[0].exchange);
  link.pump();
  CHECK(link.recorder.calls.size() == 50);
  CHECK(deepest == 1);
  link.pump();
  CHECK(link.replies().list.size() == 50);
}

TEST_CASE("unsent answers pause reading until the peer has taken them") {
  Link link({.limits = {.unsent_bytes = 1000}});
  link.recorder.on_call = [&](HttpRequest& request) {
    link.respond(request.exchange, std::string(600, 'x'));
  };
  link.read(numbered(8));
  CHECK(link.recorder.calls.size() == 2);
  CHECK_FALSE(link.connection.wants_read());
  link.pump(100);
  CHECK(link.recorder.calls.size() == 2);
  link.pump(400);
  CHECK(link.recorder.calls.size() == 3);
  link.pump();
  CHECK(link.recorder.calls.size() == 8);
  CHECK(link.connection.wants_read());
  CHECK(link.replies().list.size() == 8);
}

TEST_CASE("answers that wait for an earlier one count as unsent") {
  Link link({.limits = {.unsent_bytes = 1000}});
  link.feed(get("/first"));
  link.feed(get("/second"));
  link.respond(link.recorder.calls[1].exchange, std::string(2000, 'x'));
  CHECK_FALSE(link.connection.has_output());
  CHECK_FALSE(link.connection.wants_read());
  link.respond(link.recorder.calls[0].exchange);
  link.pump();
  CHECK(link.connection.wants_read());
}

TEST_CASE("a body under way is finished after a pause") {
  for (const std::string& body :
       {post("/big", std::string(5000, 'b')),
        chunked("/big", "1388\r\n" + std::string(5000, 'b') + "\r\n0\r\n\r\n")}) {
    Link link({.limits = {.exchanges = 2}});
    link.feed(get("/a"));
    link.feed(body.substr(0, 1000));
    link.feed(body.substr(1000) + get("/c"));
    CHECK(link.recorder.calls.size() == 2);
    link.respond(link.recorder.calls[0].exchange);
    link.pump();
    if (link.recorder.calls.size() < 3) link.feed(get("/c"));
    REQUIRE(link.recorder.calls.size() == 3);
    CHECK(link.recorder.calls[1].body == std::string(5000, 'b'));
    CHECK(link.recorder.calls[2].target == "/c");
  }
}

TEST_CASE("whoever reads on during a pause is stopped by a limit, not by memory") {
  Link link({.limits = {.header_bytes = 1000, .exchanges = 1}, .scratch_bytes = 1000});
  link.feed(get("/"));
  for (int i = 0; i < 1000 && !link.connection.wants_close(); ++i) link.read(numbered(20));
  CHECK(link.pool.stats().high_water_bytes <= 16 << 10);
  link.respond(link.recorder.calls[0].exchange);
  link.pump();
  CHECK(link.replies().list.back().status == 503);
  CHECK(link.connection.wants_close());
}

TEST_CASE("a slow head is cut off header_timeout after its first byte") {
  Link link;
  CHECK(link.connection.next_deadline() == link.now + seconds(300));
  const std::string head = get("/");
  link.advance(seconds(100));
  const TimePoint start = link.now;
  for (std::size_t i = 0; link.out.empty(); ++i) {
    REQUIRE(i < head.size());
    link.feed(head.substr(i, 1));
    CHECK(link.connection.next_deadline() == start + seconds(10));
    link.advance(seconds(9));
  }
  CHECK(link.status() == 408);
  CHECK(link.now < start + seconds(20));
  CHECK(link.connection.wants_close());
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("every head has its own time") {
  Link link;
  link.answering();
  for (int i = 0; i < 5; ++i) {
    link.feed("GET / HTTP/1.1\r\n");
    link.advance(seconds(8));
    link.feed("Host: h\r\n\r\nGET / HT");
    link.advance(seconds(8));
    link.feed("TP/1.1\r\nHost: h\r\n\r\n");
    link.advance(seconds(8));
  }
  CHECK(link.replies().list.size() == 10);
  CHECK_FALSE(link.connection.wants_close());
}

TEST_CASE("a body is cut off body_timeout after its last progress") {
  for (const std::string& head :
       {std::string("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"),
        chunked("/", "186a0\r\n")}) {
    SUBCASE("silence") {
      Link link;
      link.feed(head);
      CHECK(link.connection.next_deadline() == link.now + seconds(30));
      link.advance(seconds(29));
      CHECK(link.out.empty());
      link.advance(seconds(1));
      CHECK(link.status() == 408);
      CHECK(link.connection.wants_close());
      CHECK(link.pool.stats().in_use_bytes == 0);
    }
    SUBCASE("steady") {
      Link link;
      link.answering();
      link.feed(head);
      for (int i = 0; i < 100; ++i) {
        link.feed(std::string(1000, 'x'));
        link.advance(seconds(14));
      }
      CHECK(link.out.find("408") == link.out.npos);
    }
    SUBCASE("a trickle is not progress") {
      Link link;
      link.feed(head);
      for (int i = 0; i < 31 && link.out.empty(); ++i) {
        link.feed("x");
        link.advance(seconds(1));
      }
      CHECK(link.status() == 408);
    }
  }
}

TEST_CASE("time does not run against the peer while we do not read") {
  Link link({.limits = {.exchanges = 2}});
  link.feed(get("/a"));
  link.feed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n");
  link.feed("12345");
  link.respond(link.recorder.calls[0].exchange, "a");
  link.pump();
  link.feed("67890" + get("/c") + "GET ");
  REQUIRE(link.recorder.calls.size() == 3);
  CHECK_FALSE(link.connection.wants_read());
  link.advance(seconds(1000));
  link.respond(link.recorder.calls[1].exchange, "b");
  link.pump();
  CHECK(link.connection.next_deadline() == link.now + seconds(10));
  link.advance(seconds(9));
  CHECK_FALSE(link.connection.wants_close());
  link.advance(seconds(1));
  link.respond(link.recorder.calls[2].exchange, "c");
  link.pump();
  CHECK(link.replies().list.back().status == 408);

  Link body({.limits = {.unsent_bytes = 10}});
  body.feed(get("/a"));
  body.feed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n");
  body.respond(body.recorder.calls[0].exchange, std::string(100, 'x'));
  body.now += seconds(50);
  CHECK(body.connection.next_deadline() == body.now + seconds(10));  // the write's
  body.pump();
  CHECK(body.connection.next_deadline() == body.now + seconds(30));
}

TEST_CASE("an idle connection is closed without a word, a waiting one is left alone") {
  Link link;
  link.feed(get("/"));
  CHECK(link.connection.next_deadline() == kNever);
  link.advance(seconds(10000));
  link.respond(link.recorder.calls[0].exchange);
  link.pump();
  const std::string answered = link.out;
  CHECK(link.connection.next_deadline() == link.now + seconds(300));
  link.advance(seconds(299));
  CHECK_FALSE(link.connection.wants_close());
  link.advance(seconds(1));
  CHECK(link.connection.wants_close());
  CHECK(link.out == answered);
}

TEST_CASE("a peer that takes nothing is dropped") {
  Link link;
  link.feed(get("/a") + get("/b"));
  link.respond(link.recorder.calls[0].exchange, std::string(1000, 'x'));
  CHECK(link.connection.next_deadline() == link.now + seconds(60));
  link.now += seconds(59);
  link.pump(1);
  CHECK(link.connection.next_deadline() == link.now + seconds(60));
  link.now += seconds(60);
  link.connection.on_deadline(link.now);
  CHECK_FALSE(link.connection.has_output());
  CHECK(link.connection.open_exchanges() == 0);
  CHECK(link.connection.wants_close());
  link.respond(link.recorder.calls[1].exchange);
  CHECK_FALSE(link.connection.has_output());
  CHECK(link.connection.next_deadline() == kNever);
}

TEST_CASE("a deadline that has not come does nothing") {
  Link link;
  link.connection.on_deadline(link.now + seconds(299));
  CHECK_FALSE(link.connection.wants_close());
  link.feed("GET /");
  link.connection.on_deadline(link.now + milliseconds(9999));
  CHECK_FALSE(link.connection.has_output());
}

TEST_CASE("the rest of a refused body is thrown away, so that the answer arrives") {
  Link link;
  link.recorder.limit_bytes = 10;
  SUBCASE("all of it comes") {
    link.feed(post("/", std::string(100000, 'x')), 1000);
    CHECK(link.status() == 413);
    CHECK(link.connection.wants_close());
  }
  SUBCASE("the client gives up") {
    link.feed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n");
    CHECK(link.status() == 413);
    CHECK_FALSE(link.connection.wants_close());
    CHECK(link.connection.wants_read());
    link.connection.received_eof(link.now);
    CHECK(link.connection.wants_close());
  }
  SUBCASE("the client says nothing") {
    link.feed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5000000\r\n\r\n");
    CHECK(link.connection.next_deadline() == link.now + seconds(2));
    link.advance(seconds(2));
    CHECK(link.connection.wants_close());
  }
  SUBCASE("the client goes on for ever") {
    link.feed(chunked("/", "ff\r\n"));
    for (int i = 0; i < 2000 && !link.connection.wants_close(); ++i) {
      CHECK(link.feed(std::string(1000, 'x')) == 1000);
      link.advance(milliseconds(10));
    }
    CHECK(link.connection.wants_close());
  }
  CHECK(link.replies().list.size() == 1);
  CHECK(link.recorder.calls.empty());
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("end of input: nothing under way") {
  Link link;
  SUBCASE("fresh") {}
  SUBCASE("in a head") { link.feed("GET / HTTP/1.1\r\nHo"); }
  SUBCASE("in a body") { link.feed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc"); }
  SUBCASE("in chunks") { link.feed(chunked("/", "5\r\nhel")); }
  link.connection.received_eof(link.now);
  CHECK(link.connection.wants_close());
  CHECK(link.out.empty());
  CHECK(link.recorder.calls.empty());
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("end of input: calls under way are answered, also those that were not parsed yet") {
  Link link({.limits = {.exchanges = 2}});
  SUBCASE("") { link.read(numbered(5)); }
  SUBCASE("and half a call") { link.read(numbered(5) + "GET /half"); }
  link.connection.received_eof(link.now);
  CHECK(link.recorder.calls.size() == 2);
  for (std::size_t i = 0; i < 5; ++i) {
    CHECK_FALSE(link.connection.wants_close());
    REQUIRE(link.recorder.calls.size() > i);
    link.respond(link.recorder.calls[i].exchange);
    link.pump();
  }
  CHECK(link.connection.wants_close());
  const Replies replies = link.replies();
  REQUIRE(replies.list.size() == 5);
  for (std::size_t i = 0; i < 4; ++i) CHECK(replies.list[i].header("Connection").empty());
  CHECK(replies.list[4].header("Connection") == "close");
}

TEST_CASE("draining: idle connections want to close, calls under way are answered") {
  Link link({.limits = {.exchanges = 2}});
  SUBCASE("idle") {}
  SUBCASE("open calls; the last answer says close") {
    link.feed(get("/a") + get("/b"));
    link.connection.drain();
    CHECK_FALSE(link.connection.wants_close());
    link.read(get("/late"));
    CHECK(link.recorder.calls.size() == 2);
    link.respond(link.recorder.calls[1].exchange);
    link.respond(link.recorder.calls[0].exchange);
    link.pump();
    const Replies replies = link.replies();
    REQUIRE(replies.list.size() == 2);
    CHECK(replies.list[0].header("Connection").empty());
    CHECK(replies.list[1].header("Connection") == "close");
  }
  SUBCASE("calls that were read and not begun are not answered") {
    link.read(numbered(4));
    link.connection.drain();
    link.respond(link.recorder.calls[0].exchange);
    link.respond(link.recorder.calls[1].exchange);
    link.pump();
    CHECK(link.recorder.calls.size() == 2);
    CHECK(link.replies().list.size() == 2);
  }
  SUBCASE("a head under way") {
    link.answering();
    link.feed("GET /a HT");
    link.connection.drain();
    CHECK_FALSE(link.connection.wants_close());
    link.feed("TP/1.1\r\nHost: h\r\n\r\n" + get("/b"));
    CHECK(link.recorder.calls.size() == 1);
    CHECK(link.replies().list[0].header("Connection") == "close");
  }
  SUBCASE("a body under way") {
    link.answering();
    link.feed("POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhel");
    link.connection.drain();
    link.feed("lo" + get("/b"));
    CHECK(link.status() == 200);
    CHECK(link.replies().list[0].header("Connection") == "close");
  }
  SUBCASE("from inside the handler") {
    link.recorder.on_call = [&](HttpRequest& request) {
      link.connection.drain();
      link.respond(request.exchange);
    };
    link.feed(get("/a") + get("/b"));
    CHECK(link.recorder.calls.size() == 1);
    CHECK(link.replies().list.size() == 1);
  }
  link.connection.drain();
  CHECK(link.connection.wants_close());
  CHECK(link.connection.next_deadline() == kNever);
}

}  // namespace
}  // namespace servolley::net
