#include <doctest/doctest.h>

#include "harness.h"

namespace servolley::engine {
namespace {

using std::chrono::seconds;

TEST_CASE("what a burst left in the pool goes back when it is over, also without a connection") {
  // The connection may be gone before anybody has looked.
  bool seen = false;
  SUBCASE("seen while it lasted") { seen = true; }
  SUBCASE("over before the first sweep") {}
  Engine engine({});
  serve(
      engine, unary_signature(DType::kFp32),
      [](auto, auto, auto) { return internal_error("never mind"); }, with(Execution::kInline));
  TimePoint now = Clock::now();
  {
    Client client(engine);
    // 4 MiB in one request.
    client.send(infer_row(1, "m", 1 << 18));
    engine.tick();
    Answer answer;
    REQUIRE(client.read(answer));
    CHECK(answer.status == 500);
    if (seen) engine.expire(now += seconds(1));
    CHECK(engine.pool().stats().cached_bytes >= 4 << 20);
  }
  CHECK(engine.pool().stats().in_use_bytes == 0);
  // The sweeps go on until there is nothing more to do for them.
  int sweeps = 0;
  while (engine.next_expiry(now) != kNever) {
    REQUIRE(++sweeps < 10);
    now = engine.next_expiry(now);
    engine.expire(now);
  }
  CHECK(sweeps >= 2);
  CHECK(engine.pool().stats().cached_bytes == 0);
}

TEST_CASE("bodies that are announced and never come leave memory for those who ask for little") {
  EngineOptions options;
  options.pool_bytes = 16 << 20;
  Engine engine(options);
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  std::vector<std::unique_ptr<Client>> hogs;
  for (int i = 0; i < 20; ++i) {
    hogs.push_back(std::make_unique<Client>(engine));
    hogs.back()->send(
        "POST /v2/models/m/infer HTTP/1.1\r\nHost: test\r\nContent-Length: 2000000\r\n\r\n");
  }
  Answer refused;
  REQUIRE(hogs.back()->read(refused));
  CHECK(refused.status == 503);
  Client client(engine);
  client.send(infer_row(1));
  engine.tick();
  Answer answer;
  REQUIRE(client.read(answer));
  CHECK(answer.status == 200);
}

TEST_CASE("little traffic leaves the pool warm") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  Client client(engine);
  client.send(infer_row(1));
  engine.tick();
  Answer answer;
  REQUIRE(client.read(answer));
  const std::size_t cached = engine.pool().stats().cached_bytes;
  CHECK(cached > 0);
  TimePoint now = Clock::now();
  for (int i = 0; i < 10; ++i) engine.expire(now += seconds(1));
  CHECK(engine.pool().stats().cached_bytes == cached);
}

TEST_CASE("overload in each dialect's words") {
  const Status full(Code::kResourceExhausted, "no memory");
  CHECK(http_status(in_dialect(full, Dialect::kOipHttp).code()) == 503);
  CHECK(http_status(in_dialect(full, Dialect::kTfsHttp).code()) == 429);
  const Status late(Code::kDeadlineExceeded, "too late");
  CHECK(http_status(in_dialect(late, Dialect::kOipHttp).code()) == 503);
  CHECK(http_status(in_dialect(late, Dialect::kTfsHttp).code()) == 504);
  CHECK(in_dialect(invalid_argument("x"), Dialect::kOipHttp).code() == Code::kInvalidArgument);
}

TEST_CASE("an encoding that nobody reads is answered with those that we do") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  Client client(engine);
  client.send(post("/v2/models/m/infer", "x", "Content-Encoding: br\r\n"));
  Answer answer;
  REQUIRE(client.read(answer));
  CHECK(answer.status == 415);
  CHECK(answer.head.find("\r\nAccept-Encoding: gzip, deflate\r\n") != std::string::npos);
}

}  // namespace
}  // namespace servolley::engine
