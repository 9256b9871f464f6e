#include <doctest/doctest.h>

#include "grpc_harness.h"

namespace servolley::engine {
namespace {

TEST_CASE("a call that is not hot is handed out event by event, and answered from outside") {
  Engine engine({});
  GrpcClient client(engine);
  auto fields = GrpcClient::head("/a.B/C", "1500m");
  fields.emplace_back("x-more", "words");
  const std::int32_t id = client.open(fields);
  client.say(id, "question");
  client.half_close(id);
  CHECK((client.exchange() & kCalls) != 0);
  Connection& connection = client.wire.connection();
  const auto calls = connection.take_calls();
  REQUIRE(calls.size() == 3);
  CHECK(calls[0].kind == ControlKind::kGrpcOpen);
  CHECK(calls[0].target == "/a.B/C");
  CHECK(calls[0].timeout_us == 1'500'000);
  CHECK(std::find(calls[0].headers.begin(), calls[0].headers.end(),
                  std::pair<std::string, std::string>("x-more", "words")) !=
        calls[0].headers.end());
  CHECK(calls[1].kind == ControlKind::kGrpcMessage);
  CHECK(calls[1].body == "question");
  CHECK(!calls[1].timeout_us);
  CHECK(calls[2].kind == ControlKind::kGrpcHalfClose);
  for (const ControlCall& call : calls) CHECK(call.exchange == static_cast<std::uint64_t>(id));

  connection.reply_message(calls[0].exchange, "one");
  connection.reply_message(calls[0].exchange, "two");
  CHECK(client.status(id).empty());
  connection.reply_end(calls[0].exchange, Status(Code::kAborted, "enough"));
  CHECK(client.status(id) == "10");
  CHECK(client.calls[id].message() == "enough");
  CHECK(client.answers(id) == std::vector<std::string>{"one", "two"});
  CHECK(engine.front_stats().responses[http_status(Code::kAborted)] == 1);
}

TEST_CASE("a cancelled control call says so, and late answers go nowhere") {
  Engine engine({});
  GrpcClient client(engine);
  const std::int32_t id = client.begin("/a.B/C", "question");
  const std::int32_t other = client.begin("/a.B/C", "another");
  client.exchange();
  Connection& connection = client.wire.connection();
  CHECK(connection.take_calls().size() == 6);
  client.cancel(id);
  client.exchange();
  const auto calls = connection.take_calls();
  REQUIRE(calls.size() == 1);
  CHECK(calls[0].kind == ControlKind::kGrpcCancel);
  CHECK(calls[0].exchange == static_cast<std::uint64_t>(id));
  connection.reply_message(static_cast<std::uint64_t>(id), "too late");
  connection.reply_end(static_cast<std::uint64_t>(id), {});
  connection.reply_end(12345, {});
  connection.reply_message(static_cast<std::uint64_t>(other), "answer");
  connection.reply_end(static_cast<std::uint64_t>(other), {});
  CHECK(client.status(other) == "0");
  CHECK(client.calls[id].body.empty());
}

TEST_CASE("an HTTP answer to a gRPC call is our mistake, and ends it") {
  Engine engine({});
  GrpcClient client(engine);
  const std::int32_t id = client.begin("/a.B/C", "question");
  client.exchange();
  client.wire.connection().reply(
      static_cast<std::uint64_t>(id),
      {.status = 200, .content_type = "text/plain", .extra_headers = "", .body = "?"});
  CHECK(client.status(id) == "13");
}

TEST_CASE("on a control-only connection nothing is hot") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  GrpcClient client(engine, true);
  client.begin(kInferPath, infer_message(1));
  client.exchange();
  CHECK(engine.in_flight() == 0);
  const auto calls = client.wire.connection().take_calls();
  REQUIRE(!calls.empty());
  CHECK(calls[0].target == kInferPath);
}

TEST_CASE("control calls and hot calls share a connection") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  GrpcClient client(engine);
  const std::int32_t control = client.begin("/a.B/C", "question");
  const std::int32_t hot = client.begin(kInferPath, infer_message(6));
  client.exchange();
  engine.tick();
  CHECK(client.status(hot) == "0");
  CHECK(client.status(control).empty());
  client.wire.connection().reply_message(static_cast<std::uint64_t>(control), "answer");
  client.wire.connection().reply_end(static_cast<std::uint64_t>(control), {});
  CHECK(client.status(control) == "0");
  CHECK(has_doubled(client.answers(hot).at(0), 6));
}

}  // namespace
}  // namespace servolley::engine
