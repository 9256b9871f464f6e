#include <doctest/doctest.h>

#include "net/http1_link.h"
#include "net/http1_streams.h"

namespace servolley::net {
namespace {

struct Outcome {
  std::vector<SeenCall> calls;
  std::string out;
  bool wants_close = false;

  bool same_as(const Outcome& other) const {
    return out == other.out && wants_close == other.wants_close &&
           std::equal(calls.begin(), calls.end(), other.calls.begin(), other.calls.end(),
                      [](const SeenCall& a, const SeenCall& b) { return a.same_as(b); });
  }
};

// `reads`: how the input is cut; the rest comes in one. Whether an interim response is sent depends
// on the cut, and so is left out.
Outcome run(const std::string& input, const std::vector<std::size_t>& reads, std::size_t step,
            std::size_t scratch_bytes) {
  Link link({.limits = {}, .scratch_bytes = scratch_bytes, .pool = {}});
  link.answering();
  std::string_view rest = input;
  for (const std::size_t bytes : reads) {
    rest.remove_prefix(link.feed(rest.substr(0, bytes)));
  }
  link.feed(rest, step);
  const std::string interim = "HTTP/1.1 100 Continue\r\n\r\n";
  for (std::size_t at = 0; (at = link.out.find(interim, at)) != link.out.npos;) {
    link.out.erase(at, interim.size());
  }
  return {link.recorder.calls, link.out, link.connection.wants_close()};
}

constexpr std::size_t kWhole = static_cast<std::size_t>(-1);

TEST_CASE("a stream means the same however it is cut into reads") {
  for (const std::string& input : valid_streams()) {
    CAPTURE(input.substr(0, 80));
    const Outcome whole = run(input, {}, kWhole, 64 << 10);
    CHECK_FALSE(whole.calls.empty());
    CHECK_FALSE(whole.wants_close);
    CHECK_FALSE(Replies(whole.out).bad);
    CHECK(Replies(whole.out).list.size() == whole.calls.size());
    for (const std::size_t scratch : {std::size_t{64 << 10}, std::size_t{200}}) {
      for (const std::size_t step : {1, 2, 3, 7, 64}) {
        CHECK(run(input, {}, step, scratch).same_as(whole));
      }
    }
    std::size_t wrong = 0;
    for (std::size_t at = 1; at < input.size(); ++at) {
      wrong += !run(input, {at}, kWhole, 64 << 10).same_as(whole);
      wrong += !run(input, {at, 1}, kWhole, 64 << 10).same_as(whole);
      wrong += !run(input, {at, 2, 1}, kWhole, 150).same_as(whole);
    }
    CHECK(wrong == 0);
  }
}

TEST_CASE("a connection that has read one stream reads every other one") {
  const std::vector<std::string> streams = valid_streams();
  std::string all;
  std::size_t calls = 0;
  for (const std::string& input : streams) {
    all += input;
    calls += run(input, {}, kWhole, 64 << 10).calls.size();
  }
  const Outcome whole = run(all, {}, kWhole, 64 << 10);
  CHECK(whole.calls.size() == calls);
  CHECK_FALSE(whole.wants_close);
  for (const std::size_t step : {1, 5, 333}) CHECK(run(all, {}, step, 1024).same_as(whole));
}

TEST_CASE("an error means the same however the stream is cut, and what came before is answered") {
  const std::vector<std::string> bad = {
      "GET / HTTP/1.1\r\nHost: h\r\nA: b\r\n c\r\n\r\n",
      "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
      "GET / HTTP/1.1\nHost: h\n\n",
      "GET / HTTP/1.2\r\nHost: h\r\n\r\n",
      "\x16\x03\x01",
      "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nx",
      chunked("/", "5\r\nhello\r\nx\r\n"),
      chunked("/", "5\r\nhelloworld\r\n"),
      chunked("/", "5\nhello\r\n0\r\n\r\n"),
      chunked("/", "0\r\nA : b\r\n\r\n"),
  };
  for (const std::string& error : bad) {
    const std::string input = get("/a") + post("/b", "body") + error + get("/never");
    CAPTURE(error);
    const Outcome whole = run(input, {}, kWhole, 64 << 10);
    CHECK(whole.calls.size() == 2);
    CHECK(whole.wants_close);
    const Replies replies(whole.out);
    REQUIRE(replies.list.size() == 3);
    CHECK(replies.list[2].status >= 400);
    std::size_t wrong = 0;
    for (std::size_t at = 1; at < input.size(); ++at) {
      wrong += !run(input, {at}, kWhole, 64 << 10).same_as(whole);
    }
    CHECK(wrong == 0);
    CHECK(run(input, {}, 1, 64 << 10).same_as(whole));
  }
}

}  // namespace
}  // namespace servolley::net
