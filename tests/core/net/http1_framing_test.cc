#include <doctest/doctest.h>

#include "net/http1_link.h"

namespace servolley::net {
namespace {

using namespace std::string_literals;

const std::string kHost = "Host: h\r\n";

// Feeds one input whole and byte by byte; both must answer `status`, close and call nobody.
void check_refused(const std::string& input, int status, const Http1Limits& limits = {}) {
  CAPTURE(input.substr(0, 200));
  for (const std::size_t step : {input.size(), std::size_t{1}}) {
    CAPTURE(step);
    Link link({.limits = limits});
    link.answering();
    link.feed(input, step);
    CHECK(link.status() == status);
    CHECK(link.recorder.calls.empty());
    const Replies replies = link.replies();
    REQUIRE(replies.list.size() == 1);
    CHECK(replies.list[0].header("Connection") == "close");
    CHECK(replies.list[0].body.starts_with("{\"error\":\""));
    link.advance(limits.linger_timeout);
    CHECK(link.connection.wants_close());
  }
}

void check_accepted(const std::string& input, std::string_view body) {
  CAPTURE(input);
  for (const std::size_t step : {input.size(), std::size_t{1}}) {
    Link link;
    link.answering();
    link.feed(input, step);
    CHECK(link.status() == 200);
    REQUIRE(link.recorder.calls.size() == 1);
    CHECK(link.recorder.calls[0].body == body);
    CHECK_FALSE(link.connection.wants_close());
  }
}

TEST_CASE("Content-Length: only one, only digits") {
  for (const std::string value :
       {"+5", "-5", "5 5", "5,5", "5, 5", "0x5", "5.0", "five", "", "18446744073709551616",
        "99999999999999999999999", "5;", "\"5\""}) {
    check_refused("POST / HTTP/1.1\r\n" + kHost + "Content-Length: " + value + "\r\n\r\nhello",
                  400);
  }
  check_refused(
      "POST / HTTP/1.1\r\n" + kHost + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", 400);
  check_refused(
      "POST / HTTP/1.1\r\n" + kHost + "Content-Length: 5\r\ncontent-length: 5\r\n\r\nhello", 400);
  check_accepted("POST / HTTP/1.1\r\n" + kHost + "Content-Length: 005\r\n\r\nhello", "hello");
  check_accepted("POST / HTTP/1.1\r\n" + kHost + "Content-Length:\t5 \r\n\r\nhello", "hello");
  check_accepted("POST / HTTP/1.1\r\n" + kHost + "Content-Length: 0\r\n\r\n", "");
}

TEST_CASE("Transfer-Encoding: chunked and nothing else, and never beside Content-Length") {
  const std::string chunks = "\r\n5\r\nhello\r\n0\r\n\r\n";
  for (const std::string value :
       {"identity", "chunked, identity", "gzip, chunked", "chunked, chunked", "chunked;q=1",
        "xchunked", "", "\"chunked\"", "chunked,", ", chunked"}) {
    check_refused("POST / HTTP/1.1\r\n" + kHost + "Transfer-Encoding: " + value + "\r\n" + chunks,
                  400);
  }
  for (const std::string pair : {"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
                                 "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
                                 "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
                                 "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
                                 "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
                                 "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n"}) {
    check_refused("POST / HTTP/1.1\r\n" + kHost + pair + chunks, 400);
  }
  check_accepted("POST / HTTP/1.1\r\n" + kHost + "Transfer-Encoding: CHUNKED\r\n" + chunks,
                 "hello");
}

TEST_CASE("the shape of a head") {
  for (const std::string& input : std::vector<std::string>{
           "GET / HTTP/1.1\r\n" + kHost + "A: b\r\n c\r\n\r\n",  // folded
           "GET / HTTP/1.1\r\n" + kHost + "A:\r\n\tc\r\n\r\n",   // folded, first part empty
           "GET / HTTP/1.1\r\n " + kHost + "\r\n",               // folded request line
           "GET / HTTP/1.1\r\nHost : h\r\n\r\n",                 // white space before the colon
           "GET / HTTP/1.1\r\n" + kHost + "A\t: b\r\n\r\n",
           "GET / HTTP/1.1\r\n" + kHost + ": b\r\n\r\n",  // no name
           "GET / HTTP/1.1\r\n" + kHost + "no colon\r\n\r\n",
           "GET / HTTP/1.1\r\n" + kHost + "A(b): c\r\n\r\n",  // not a token
           "GET / HTTP/1.1\r\n" + kHost + "\xc3\xa9: c\r\n\r\n",
           "GET / HTTP/1.1\nHost: h\n\n",  // bare line feeds
           "GET / HTTP/1.1\r\n" + kHost + "A: b\nC: d\r\n\r\n",
           "GET / HTTP/1.1\r\n" + kHost + "A: b\rC: d\r\n\r\n",  // bare carriage return
           "GET / HTTP/1.1\r\n" + kHost + "A: b\r\r\n\r\n",
           "GET / HTTP/1.1\r\n" + kHost + "A: b\0c\r\n\r\n"s,  // NUL
           "GET / HTTP/1.1\r\n" + kHost + "A: b\x01\r\n\r\n",
           "GET / HTTP/1.1\r\n" + kHost + "A: b\x7f\r\n\r\n",
           "GET /\0 HTTP/1.1\r\n"s + kHost + "\r\n",
           "GET /a b HTTP/1.1\r\n" + kHost + "\r\n",
           "GET  / HTTP/1.1\r\n" + kHost + "\r\n",
           "GET /\tHTTP/1.1\r\n" + kHost + "\r\n",
           "GET / HTTP/1.1 \r\n" + kHost + "\r\n",
           " GET / HTTP/1.1\r\n" + kHost + "\r\n",
           "G\"T / HTTP/1.1\r\n" + kHost + "\r\n",
           "GET /\xc3\xa9 HTTP/1.1\r\n" + kHost + "\r\n",  // not ASCII
           "GET /\r\n\r\n"s,                               // HTTP/0.9
           "GET / http/1.1\r\n" + kHost + "\r\n",
           "GET / HTTP/1.2\r\n" + kHost + "\r\n",
           "GET / HTTP/2.0\r\n" + kHost + "\r\n",
           "GET / HTTP/11\r\n" + kHost + "\r\n",
           "\r\n\r\nGET / HTTP/1.1\r\n" + kHost + "\r\n",  // a second empty line
           "GET / HTTP/1.1\r\n" + kHost + "Connection: \x80,\r\n\r\n"}) {
    check_refused(input, 400);
  }
  check_accepted("\r\nGET / HTTP/1.1\r\n" + kHost + "\r\n", "");
  check_accepted("GET / HTTP/1.1\r\n" + kHost + "A: tab\there \xc3\xa9 ~\r\n\r\n", "");
}

TEST_CASE("Host: exactly one, and one that can be a host") {
  check_refused("GET / HTTP/1.1\r\n\r\n", 400);
  check_refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400);
  check_refused("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", 400);
  for (const std::string host : {"a b", "a/b", "user@a", "a?b", "a#b", "\xc3\xa9", "a\\b"}) {
    check_refused("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n", 400);
  }
  for (const std::string host : {"", "a", "a:1", "[::1]:8000", "a_b.c-d", "%41"}) {
    check_accepted("GET / HTTP/1.1\r\nHost: " + host + "\r\n\r\n", "");
  }
}

TEST_CASE("other protocols, other targets") {
  check_refused("GET / HTTP/1.2\r\nHost: h\r\n\r\n", 400);
  check_refused("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400);
  check_refused("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"s, 400);  // TLS hello
  check_refused("\x80\x2e\x01\x00\x02"s, 400);
  check_refused("CONNECT h:80 HTTP/1.1\r\n" + kHost + "\r\n", 400);
  check_refused("CONNECT /h HTTP/1.1\r\n" + kHost + "\r\n", 400);
  check_refused("OPTIONS * HTTP/1.1\r\n" + kHost + "\r\n", 400);
  check_refused("GET v2 HTTP/1.1\r\n" + kHost + "\r\n", 400);
  check_refused("GET ftp://h/ HTTP/1.1\r\n" + kHost + "\r\n", 400);
}

TEST_CASE("HTTP/1.0: one call, and the connection ends with its answer") {
  for (const std::string headers : {"", "Host: h\r\n", "Connection: keep-alive\r\n"}) {
    CAPTURE(headers);
    Link link;
    link.feed("POST /a HTTP/1.0\r\n" + headers + "Content-Length: 3\r\n\r\nabc" +
              "GET /b HTTP/1.0\r\n\r\n");
    REQUIRE(link.recorder.calls.size() == 1);
    CHECK(link.recorder.calls[0].body == "abc");
    link.respond(link.recorder.calls[0].exchange);
    link.pump();
    REQUIRE(link.replies().list.size() == 1);
    CHECK(link.replies().list[0].status == 200);
    CHECK(link.replies().list[0].header("Connection") == "close");
    CHECK(link.connection.wants_close());
  }
  check_refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400);
  check_refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400);
  // Nobody of that age waits for a 100.
  Link link;
  link.feed("POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
  CHECK(link.out.empty());
}

TEST_CASE("chunks: bad sizes, ends, extensions and trailers") {
  const std::string head = "POST / HTTP/1.1\r\n" + kHost + "Transfer-Encoding: chunked\r\n\r\n";
  for (const std::string& chunks :
       std::vector<std::string>{"x\r\nhello\r\n0\r\n\r\n"s,
                                "-5\r\nhello\r\n0\r\n\r\n"s,
                                "+5\r\nhello\r\n0\r\n\r\n"s,
                                "0x5\r\nhello\r\n0\r\n\r\n"s,
                                " 5\r\nhello\r\n0\r\n\r\n"s,
                                "5 \r\nhello\r\n0\r\n\r\n"s,
                                "\r\n5\r\nhello\r\n0\r\n\r\n"s,
                                "5\nhello\r\n0\r\n\r\n"s,
                                "5\rhello\r\n0\r\n\r\n"s,
                                "5\r\nhelloo\r\n0\r\n\r\n"s,
                                "5\r\nhello0\r\n\r\n"s,
                                "5\r\nhello\n0\r\n\r\n"s,
                                "5\r\nhell\r\n0\r\n\r\n"s,
                                "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"s,
                                "5g\r\nhello\r\n0\r\n\r\n"s,
                                "5,\r\nhello\r\n0\r\n\r\n"s,
                                "5;\r\nhello\r\n0\r\n\r\n"s,
                                "5;a=\r\nhello\r\n0\r\n\r\n"s,
                                "5;a=\"\n\"\r\nhello\r\n0\r\n\r\n"s,
                                "5;a=\"b\"\r\nhello\r\n0\r\n\r\n"s,
                                "5;a=\"\r\nhello\r\n0\r\n\r\n"s,
                                "5;a=\"\x01\"\r\nhello\r\n0\r\n\r\n"s,
                                "5;" + std::string(300, 'a') + "\r\nhello\r\n0\r\n\r\n",
                                std::string(300, '0') + "5\r\nhello\r\n0\r\n\r\n",
                                "0;" + std::string(300, 'a') + "\r\n\r\n",
                                "0\r\nbad trailer\r\n\r\n"s,
                                "0\r\nA : b\r\n\r\n"s,
                                "0\r\nA: b\r\n c\r\n\r\n"s,
                                "0\r\nA:\r\n c\r\n\r\n"s,
                                "0\r\nA: b\x01\r\n\r\n"s,
                                "0\r\nA: b\nC: d\r\n\r\n"s,
                                "0\r\nContent-Length: 5\r\n\r\n"s,
                                "0\r\nTransfer-Encoding: chunked\r\n\r\n"s}) {
    check_refused(head + chunks, 400);
  }
  check_refused(head + "0\r\nA: " + std::string(9000, 'b') + "\r\n\r\n", 431);
  check_accepted(head + "5\r\nhello\r\n0\r\n\r\n", "hello");
  check_accepted(head + "0\r\n\r\n", "");
  check_accepted(head + "00\r\n\r\n", "");
  check_accepted(head + "A\r\n0123456789\r\n0b\r\n0123456789!\r\n000\r\n\r\n",
                 "01234567890123456789!");
  check_accepted(head + "5;a=b ; c=d;e\r\nhello\r\n0;last\r\nA: b\r\nC:\r\n\r\n", "hello");
}

TEST_CASE("limits of the head") {
  Http1Limits limits;
  limits.target_bytes = 100;
  limits.header_bytes = 1000;
  limits.header_count = 10;
  const auto target = [](std::size_t bytes) {
    return "GET /" + std::string(bytes - 1, 'a') + " HTTP/1.1\r\nHost: h\r\n\r\n";
  };
  check_refused(target(101), 414, limits);
  check_refused(target(500), 414, limits);
  check_refused(std::string(1 << 20, 'A'), 414, limits);
  const auto header = [](std::size_t bytes) {
    const std::string rest = "GET / HTTP/1.1\r\nHost: h\r\nA: \r\n\r\n";
    return "GET / HTTP/1.1\r\nHost: h\r\nA: " + std::string(bytes - rest.size(), 'a') + "\r\n\r\n";
  };
  check_refused(header(1001), 431, limits);
  check_refused(header(1 << 20), 431, limits);
  const auto headers = [](std::size_t count) {
    std::string text = "GET / HTTP/1.1\r\nHost: h\r\n";
    for (std::size_t i = 1; i < count; ++i) text += "A: b\r\n";
    return text + "\r\n";
  };
  check_refused(headers(11), 431, limits);
  for (const std::string& input : {target(100), header(1000), headers(10)}) {
    for (const std::size_t step : {input.size(), std::size_t{1}}) {
      Link link({.limits = limits});
      link.answering();
      link.feed(input, step);
      CHECK(link.status() == 200);
    }
  }
  check_refused(headers(10000), 431);
  check_refused("GET /" + std::string(1 << 20, 'a') + " HTTP/1.1\r\nHost: h\r\n\r\n", 414);
  check_refused("GET / HTTP/1.1\r\nA: " + std::string(1 << 20, 'a') + "\r\nHost: h\r\n\r\n", 431);
}

TEST_CASE("limits of the body: the server's, then the handler's, before anything is allocated") {
  Http1Limits limits;
  limits.body_bytes = 1000;
  limits.chunks = 3;
  const auto length = [](std::size_t bytes) {
    return "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: " + std::to_string(bytes) + "\r\n\r\n";
  };
  const std::string chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
  check_refused(length(1001), 413, limits);
  check_refused(length(5000000000), 413, limits);
  check_refused(length(~std::size_t{0}), 413, limits);
  check_refused(chunked + "3e9\r\n", 413, limits);
  check_refused(chunked + "ffffffffffffffff\r\n", 413, limits);
  check_refused(chunked + "3e8\r\n" + std::string(1000, 'a') + "\r\n1\r\n", 413, limits);
  check_refused(chunked + "1\r\na\r\n1\r\na\r\n1\r\na\r\n1\r\na\r\n0\r\n\r\n", 400, limits);

  Link link({.limits = limits});
  link.recorder.limit_bytes = 10;
  link.feed(length(11));
  CHECK(link.status() == 413);
  CHECK(link.recorder.plans == 1);
  CHECK(link.pool.stats().high_water_bytes == 0);

  Link generous({.limits = limits});
  generous.recorder.limit_bytes = 1 << 30;
  generous.feed(length(1001));
  CHECK(generous.status() == 413);
  CHECK(generous.recorder.plans == 0);

  Link exact({.limits = limits});
  exact.answering();
  exact.feed(chunked + "3e6\r\n" + std::string(998, 'a') + "\r\n1\r\nb\r\n1\r\nc\r\n0\r\n\r\n");
  exact.feed(length(1000) + std::string(1000, 'a'));
  CHECK(exact.recorder.calls.size() == 2);
}

TEST_CASE("Expect") {
  const std::string head =
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-Continue\r\n\r\n";
  const std::string interim = "HTTP/1.1 100 Continue\r\n\r\n";
  SUBCASE("an accepted body is asked for") {
    Link link;
    link.answering();
    link.feed(head);
    CHECK(link.out == interim);
    link.feed("hello");
    CHECK(link.recorder.calls.size() == 1);
    CHECK(link.replies().list.size() == 2);
  }
  SUBCASE("a chunked body too") {
    Link link;
    link.feed(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue"
        "\r\n\r\n");
    CHECK(link.out == interim);
  }
  SUBCASE("one that is there already is not asked for") {
    Link link;
    link.answering();
    link.feed(head + "he");
    CHECK(link.out.empty());
    link.feed("llo");
    CHECK(link.status() == 200);
  }
  SUBCASE("a refused body is not, and the connection closes at once") {
    Link link;
    link.recorder.limit_bytes = 4;
    link.feed(head);
    CHECK(link.status() == 413);
    CHECK(link.connection.wants_close());
  }
  SUBCASE("answers of calls before it come first") {
    Link link;
    link.feed("GET / HTTP/1.1\r\nHost: h\r\n\r\n" + head);
    CHECK(link.out.empty());
    link.respond(link.recorder.calls[0].exchange);
    link.pump();
    const Replies replies = link.replies();
    REQUIRE(replies.list.size() == 2);
    CHECK(replies.list[0].status == 200);
    CHECK(replies.list[1].status == 100);
  }
  SUBCASE("anything else cannot be met") {
    check_refused("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: x\r\n\r\n", 417);
    check_refused("GET / HTTP/1.1\r\nHost: h\r\nExpect:\r\n\r\n", 417);
  }
  SUBCASE("without a body there is nothing to ask for") {
    Link link;
    link.answering();
    link.feed("GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n");
    CHECK(link.status() == 200);
  }
}

}  // namespace
}  // namespace servolley::net
