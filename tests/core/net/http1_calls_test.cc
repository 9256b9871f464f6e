#include <doctest/doctest.h>

#include "net/http1_link.h"

namespace servolley::net {
namespace {

TEST_CASE("a call reaches the handler as it was sent, header names in lower case") {
  Link link;
  link.feed(
      "POST /v2/models/m/infer?a=%20b HTTP/1.1\r\nHost: h:8000\r\nX-Custom_Name:  two words \r\n"
      "Content-Length: 5\r\nEmpty:\r\n\r\nhello");
  REQUIRE(link.recorder.calls.size() == 1);
  const SeenCall& call = link.recorder.calls[0];
  CHECK(call.method == "POST");
  CHECK(call.target == "/v2/models/m/infer?a=%20b");
  CHECK(call.body == "hello");
  const std::vector<std::pair<std::string, std::string>> headers = {
      {"host", "h:8000"}, {"x-custom_name", "two words"}, {"content-length", "5"}, {"empty", ""}};
  CHECK(call.headers == headers);
  CHECK(link.recorder.plans == 1);
  CHECK(link.connection.open_exchanges() == 1);
  CHECK_FALSE(link.connection.has_output());
}

TEST_CASE("the head tells length and coding, and finds the first header of a name") {
  Link link;
  std::optional<std::uint64_t> length;
  bool chunked = false;
  std::string first;
  link.recorder.on_call = [&](HttpRequest& request) {
    length = request.head.content_length;
    chunked = request.head.chunked;
    const Header* header = request.head.find("inference-header-content-length");
    first = header ? std::string(header->value) : "none";
  };
  link.feed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nab");
  CHECK(length == 2);
  CHECK_FALSE(chunked);
  CHECK(first == "none");
  // Both stay visible: what two of them mean is the handler's business.
  link.feed(
      "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n"
      "Inference-Header-Content-Length: 1\r\ninference-header-content-length: 2\r\n\r\n0\r\n\r\n");
  CHECK_FALSE(length.has_value());
  CHECK(chunked);
  CHECK(first == "1");
  REQUIRE(link.recorder.calls.size() == 2);
  CHECK(link.recorder.calls[1].headers.size() == 4);
  CHECK(link.recorder.calls[1].body.empty());
}

TEST_CASE("methods and absolute targets are handed through") {
  Link link;
  link.answering();
  for (const std::string start : {"TRACE /v2", "DELETE /x", "M-SEARCH //v2", "GET /v2/../x%00",
                                  "OPTIONS /v2", "GET http://h/v2", "get /"}) {
    link.feed(start + " HTTP/1.1\r\nHost: h\r\n\r\n");
    CHECK(link.recorder.calls.back().method + " " + link.recorder.calls.back().target == start);
  }
  CHECK(link.recorder.calls.size() == 7);
  CHECK(link.replies().list.size() == 7);
  // A body is framed alike whatever the method.
  link.feed("GET /body HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc");
  CHECK(link.recorder.calls.back().body == "abc");
}

TEST_CASE("an answer carries what its head says") {
  Link link;
  link.feed("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
  Payload body;
  body.add_static("{\"a\":1}");
  body.add_static("1234");
  link.connection.respond(link.recorder.calls[0].exchange,
                          {.status = 200,
                           .content_type = "application/octet-stream",
                           .inference_json_length = 7,
                           .content_encoding = "gzip",
                           .extra = "X-One: 1\r\nX-Two: 2\r\n"},
                          body, link.now);
  CHECK(body.size() == 0);
  link.pump();
  CHECK(link.out ==
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 11\r\n"
        "Inference-Header-Content-Length: 7\r\nContent-Encoding: gzip\r\nX-One: 1\r\n"
        "X-Two: 2\r\n\r\n{\"a\":1}1234");
  CHECK(link.connection.open_exchanges() == 0);
  CHECK_FALSE(link.connection.wants_close());
}

TEST_CASE("statuses without a body, and statuses that nobody knows") {
  const auto answer = [](int status) {
    Link link;
    link.feed("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    Payload body;
    body.add_static("text");
    link.connection.respond(link.recorder.calls[0].exchange, {.status = status}, body, link.now);
    link.pump();
    return link.out;
  };
  CHECK(answer(204) == "HTTP/1.1 204 No Content\r\n\r\n");
  CHECK(answer(304) == "HTTP/1.1 304 Not Modified\r\n\r\n");
  CHECK(answer(418) == "HTTP/1.1 418 \r\nContent-Length: 4\r\n\r\ntext");
  CHECK(answer(503) == "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\ntext");
  // Not final statuses: the client would wait for another one, or not understand.
  CHECK(answer(100) == "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\ntext");
  CHECK(answer(7) == "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\n\r\ntext");
}

TEST_CASE("HEAD gets the length and not the body") {
  Link link;
  link.feed("HEAD / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
  REQUIRE(link.recorder.calls.size() == 2);
  link.respond(link.recorder.calls[0].exchange, "12345");
  link.respond(link.recorder.calls[1].exchange, "67");
  link.pump();
  CHECK(link.out ==
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n67");
}

TEST_CASE("answers leave in call order, whatever order they are given in") {
  Link link;
  std::string input;
  for (int i = 0; i < 6; ++i) input += "GET /" + std::to_string(i) + " HTTP/1.1\r\nHost: h\r\n\r\n";
  link.feed(input);
  REQUIRE(link.recorder.calls.size() == 6);
  for (const std::size_t i : {3, 1, 5}) link.echo(link.recorder.calls[i].exchange);
  CHECK_FALSE(link.connection.has_output());
  CHECK(link.connection.open_exchanges() == 3);
  link.echo(link.recorder.calls[0].exchange);
  link.pump();
  CHECK(link.replies().list.size() == 2);
  link.echo(link.recorder.calls[4].exchange);
  link.echo(link.recorder.calls[2].exchange);
  link.pump();
  const Replies replies = link.replies();
  REQUIRE(replies.list.size() == 6);
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(replies.list[i].body == "GET /" + std::to_string(i) + " ");
  }
  CHECK(link.connection.open_exchanges() == 0);
}

TEST_CASE("a call is answered once; what is unknown is ignored and its payload dropped") {
  Link link;
  link.feed("GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n");
  const std::uint64_t second = link.recorder.calls[1].exchange;
  link.respond(second, "b");
  link.respond(second, "again");
  link.respond(second + 1, "never opened");
  link.respond(0, "never opened");
  link.respond(link.recorder.calls[0].exchange, "a");
  link.respond(link.recorder.calls[0].exchange, "again");
  Payload late;
  late.add_static("late");
  link.connection.respond(second, {}, late, link.now);
  CHECK(late.size() == 0);
  link.pump();
  const Replies replies = link.replies();
  REQUIRE(replies.list.size() == 2);
  CHECK(replies.list[0].body == "a");
  CHECK(replies.list[1].body == "b");
}

TEST_CASE("Connection: close ends the connection after its answer") {
  for (const std::string value : {"close", "Close", "keep-alive, close"}) {
    Link link;
    link.feed("GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\nHost: h\r\nConnection: " +
              value + "\r\n\r\nGET /c HTTP/1.1\r\nHost: h\r\n\r\n");
    REQUIRE(link.recorder.calls.size() == 2);
    CHECK_FALSE(link.connection.wants_close());
    link.echo(link.recorder.calls[0].exchange);
    link.echo(link.recorder.calls[1].exchange);
    CHECK_FALSE(link.connection.wants_close());
    link.pump();
    CHECK(link.connection.wants_close());
    const Replies replies = link.replies();
    REQUIRE(replies.list.size() == 2);
    CHECK(replies.list[0].header("Connection").empty());
    CHECK(replies.list[1].header("Connection") == "close");
    link.read("GET /d HTTP/1.1\r\nHost: h\r\n\r\n");
    CHECK(link.recorder.calls.size() == 2);
  }
}

TEST_CASE("an answer that closes drops the calls behind it, also when it was held back") {
  Link link;
  std::string input;
  for (int i = 0; i < 4; ++i) input += "GET /" + std::to_string(i) + " HTTP/1.1\r\nHost: h\r\n\r\n";
  link.feed(input);
  link.respond(link.recorder.calls[3].exchange, "three");
  link.respond(link.recorder.calls[1].exchange, "one", {}, true);
  CHECK_FALSE(link.connection.has_output());
  link.read("GET /late HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(link.recorder.calls.size() == 4);
  link.respond(link.recorder.calls[0].exchange, "zero");
  CHECK(link.connection.open_exchanges() == 0);
  link.respond(link.recorder.calls[2].exchange, "two");
  link.pump();
  const Replies replies = link.replies();
  REQUIRE(replies.list.size() == 2);
  CHECK(replies.list[0].body == "zero");
  CHECK(replies.list[1].body == "one");
  CHECK(replies.list[1].header("Connection") == "close");
  CHECK(link.connection.wants_close());
}

TEST_CASE("a refused call is answered in its turn with valid JSON, and the connection closes") {
  Link link;
  link.recorder.on_plan = [](const RequestHead& head) {
    if (head.target != "/no") return BodyPlan{{}, 100, 0};
    return BodyPlan{
        not_found("no \"m\\1\"\n\x7f \xc3\xa9 \xff\xc0\xaf \xed\xa0\x80 \xf4\x8f\xbf\xbf"), 100, 0};
  };
  link.feed("GET /yes HTTP/1.1\r\nHost: h\r\n\r\nGET /no HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(link.recorder.calls.size() == 1);
  CHECK_FALSE(link.connection.has_output());
  link.echo(link.recorder.calls[0].exchange);
  link.pump();
  const Replies replies = link.replies();
  REQUIRE(replies.list.size() == 2);
  CHECK(replies.list[1].status == 404);
  CHECK(replies.list[1].header("Content-Type") == "application/json");
  CHECK(replies.list[1].header("Connection") == "close");
  CHECK(replies.list[1].body ==
        "{\"error\":\"no \\\"m\\\\1\\\"\\u000a\\u007f \xc3\xa9 \\ufffd\\ufffd\\ufffd "
        "\\ufffd\\ufffd\\ufffd \xf4\x8f\xbf\xbf\"}");
  CHECK(link.connection.wants_close());
}

TEST_CASE("a refusal of HEAD has no body; a 503 says when to come back") {
  Link link;
  link.recorder.on_plan = [](const RequestHead&) {
    return BodyPlan{unavailable("not now"), 100, 0};
  };
  link.feed("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
  CHECK(link.out ==
        "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n"
        "Content-Length: 19\r\nConnection: close\r\nRetry-After: 1\r\n\r\n");
  CHECK(link.connection.wants_close());
}

}  // namespace
}  // namespace servolley::net
