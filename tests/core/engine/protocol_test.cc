#include <doctest/doctest.h>

#include "wired.h"

namespace servolley::engine {
namespace {

constexpr std::string_view kGet = "GET /v2 HTTP/1.1\r\nHost: test\r\n\r\n";
constexpr std::string_view kPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
// A client's empty SETTINGS.
constexpr std::string_view kSettings("\0\0\0\4\0\0\0\0\0", 9);

TEST_CASE("without a descriptor every answer goes through the transport") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  Wired wire(engine);
  for (int i = 0; i < 3; ++i) {
    wire.send(infer_row(static_cast<float>(i)));
    engine.tick();
    const std::string answer = wire.take();
    CHECK(answer.starts_with("HTTP/1.1 200 "));
    float value = -1;
    std::memcpy(&value, answer.data() + answer.size() - 16, sizeof value);
    CHECK(value == static_cast<float>(2 * i));
  }
  // Until writable() nothing more comes out.
  wire.send(infer_row(1));
  engine.tick();
  Payload first;
  REQUIRE((wire.connection().attend() & kOutput) != 0);
  wire.connection().take_output(first);
  CHECK(first.size() > 0);
  wire.send(infer_row(2));
  engine.tick();
  CHECK((wire.connection().attend() & kOutput) == 0);
  wire.connection().writable();
  CHECK(wire.take().starts_with("HTTP/1.1 200 "));
}

TEST_CASE("the first bytes choose the protocol where nothing was agreed on") {
  Engine engine({});
  for (const std::string_view alpn : {"", "spdy/3"}) {
    Wired http(engine, alpn);
    CHECK((http.send(kGet) & kCalls) != 0);
    Wired http2(engine, alpn);
    CHECK(http2.send("PR") == 0);  // not yet
    CHECK(http2.take().empty());
    http2.send("I");
    http2.send(kPreface.substr(3));
    http2.send(kSettings);
    const std::string output = http2.take();
    REQUIRE(output.size() > 9);
    CHECK(output[3] == 4);  // SETTINGS
  }
}

TEST_CASE("what was agreed on is the protocol, whatever the first bytes are") {
  Engine engine({});
  Wired http(engine, "http/1.1");
  CHECK((http.send(kGet) & kCalls) != 0);
  Wired http2(engine, "h2");
  http2.send(kPreface);
  http2.send(kSettings);
  CHECK(http2.take()[3] == 4);

  Wired preface_to_http1(engine, "http/1.1");
  preface_to_http1.send(kPreface);
  const std::string refusal = preface_to_http1.take();
  REQUIRE(refusal.starts_with("HTTP/1.1 "));
  CHECK((refusal[9] == '4' || refusal[9] == '5'));
  CHECK((preface_to_http1.connection().attend() & kClose) != 0);

  Wired get_to_http2(engine, "h2");
  const std::uint32_t bits = get_to_http2.send(kGet);
  CHECK((bits & kCalls) == 0);
  CHECK_FALSE(get_to_http2.take().starts_with("HTTP"));
  CHECK((get_to_http2.connection().attend() & kClose) != 0);
  // Less than a preface is not an answer yet, and not for ever.
  Wired slow(engine, "h2");
  slow.send("P");
  CHECK((slow.connection().attend() & kClose) == 0);
  slow.connection().check_deadline(Clock::now() + std::chrono::seconds(60));
  slow.take();
  CHECK((slow.connection().attend() & kClose) != 0);
}

}  // namespace
}  // namespace servolley::engine
