#include <doctest/doctest.h>

#include "grpc_harness.h"

namespace servolley::engine {
namespace {

using std::chrono::seconds;

// A quick model beside a gated one.
struct Two {
  explicit Two(Engine& engine)
      : quick(serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                    with(Execution::kInline), "quick")),
        slow(engine, "slow") {}
  std::shared_ptr<Servable> quick;
  Gated slow;
};

// The id and the error of a ModelStreamInferResponse, as far as a test can see them.
bool is_error(std::string_view answer, std::string_view text) {
  return !answer.empty() && answer[0] == '\x0a' && answer.find(text) != std::string_view::npos;
}

TEST_CASE("answers come in the order of the requests") {
  Engine engine({});
  Two models(engine);
  GrpcClient client(engine);
  const std::int32_t id = client.open(GrpcClient::head(kStreamPath));
  client.say(id, infer_message(1, "quick", "first"));
  client.exchange();
  engine.tick();
  REQUIRE(client.answers(id).size() == 1);
  client.say(id, infer_message(2, "slow", "second"));
  client.say(id, infer_message(3, "quick", "third"));
  client.say(id, infer_message(4, "nobody", "fourth"));
  client.half_close(id);
  client.exchange();
  engine.tick();
  models.slow.gate.await_entered(1);
  CHECK(client.answers(id).size() == 1);  // the quick ones wait behind the slow one
  CHECK(models.quick->stats().success_count == 2);
  models.slow.gate.open();
  REQUIRE(pump(engine, [&] { return client.status(id) == "0"; }));
  const auto answers = client.answers(id);
  REQUIRE(answers.size() == 4);
  CHECK(has_doubled(answers[1], 2));
  CHECK(has_doubled(answers[2], 3));
  CHECK(is_error(answers[3], "nobody"));
  for (const auto& [i, name] :
       {std::pair(0, "first"), {1, "second"}, {2, "third"}, {3, "fourth"}}) {
    CHECK(answers[static_cast<std::size_t>(i)].find(name) != std::string::npos);
  }
}

TEST_CASE("errors are answers, and the stream goes on") {
  Engine engine({});
  Two models(engine);
  GrpcClient client(engine);
  const std::int32_t id = client.open(GrpcClient::head(kStreamPath));
  client.say(id, "\xff");
  client.say(id, infer_message(-1, "quick", "bad"));
  client.say(id, infer_message(1, "quick", "", std::string(3, '\0')));
  client.say(id, "");
  client.say(id, infer_message(5, "quick", "good"));
  client.exchange();
  engine.tick();
  CHECK(client.status(id).empty());
  const auto answers = client.answers(id);
  REQUIRE(answers.size() == 5);
  CHECK(is_error(answers[0], ""));
  CHECK(is_error(answers[1], "poisoned row"));
  CHECK(is_error(answers[2], "unexpected size"));
  CHECK(is_error(answers[3], ""));
  CHECK(has_doubled(answers[4], 5));
  client.half_close(id);
  CHECK(client.status(id) == "0");
}

TEST_CASE("a stream without requests, and one that is cancelled") {
  Engine engine({});
  Two models(engine);
  GrpcClient client(engine);
  const std::int32_t empty = client.open(GrpcClient::head(kStreamPath));
  client.half_close(empty);
  CHECK(client.status(empty) == "0");

  const std::int32_t cancelled = client.open(GrpcClient::head(kStreamPath));
  const std::int32_t other = client.open(GrpcClient::head(kStreamPath));
  for (int i = 0; i < 4; ++i) client.say(cancelled, infer_message(1, "slow"));
  client.exchange();
  models.slow.gate.await_entered(1);
  client.say(other, infer_message(7, "slow"));
  client.half_close(other);
  client.exchange();
  client.cancel(cancelled);
  client.exchange();
  CHECK(failures(*models.slow.servable, FailureReason::kCanceled) == 3);
  models.slow.gate.open();
  REQUIRE(pump(engine, [&] { return client.status(other) == "0"; }));
  CHECK(has_doubled(client.answers(other).at(0), 7));
  CHECK(models.slow.runs == 2);
  CHECK(engine.in_flight() == 0);
}

TEST_CASE("the deadline of a stream ends it with what it has waiting") {
  Engine engine({});
  Two models(engine);
  GrpcClient client(engine);
  const std::int32_t silent = client.open(GrpcClient::head(kStreamPath, "5S"));
  const std::int32_t busy = client.open(GrpcClient::head(kStreamPath, "5S"));
  const std::int32_t patient = client.open(GrpcClient::head(kStreamPath));
  for (int i = 0; i < 3; ++i) client.say(busy, infer_message(1, "slow"));
  client.exchange();
  models.slow.gate.await_entered(1);
  const TimePoint now = Clock::now();
  engine.expire(now + seconds(4));
  CHECK(client.status(busy).empty());
  engine.expire(now + seconds(6));
  CHECK(client.status(silent) == "4");
  CHECK(client.status(busy) == "4");
  CHECK(client.status(patient).empty());
  models.slow.gate.open();
  REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
  CHECK(models.slow.runs == 1);
}

TEST_CASE("a stream with 1024 requests waiting is held back, and goes on as they are answered") {
  Engine engine({});
  Two models(engine);
  GrpcClient client(engine);
  const std::int32_t id = client.open(GrpcClient::head(kStreamPath));
  constexpr int kRequests = 5000;
  client.say(id, infer_message(0, "slow"));
  client.exchange();
  models.slow.gate.await_entered(1);
  for (int i = 1; i < kRequests; ++i) {
    client.say(id, infer_message(static_cast<float>(i), i % 2 ? "quick" : "nobody"));
  }
  client.half_close(id);
  CHECK(client.status(id).empty());
  engine.tick();
  CHECK(models.quick->stats().success_count == 512);
  CHECK(client.answers(id).empty());
  // The connection's other calls go on.
  const std::int32_t other = client.begin(kInferPath, infer_message(7, "quick"));
  client.exchange();
  engine.tick();
  CHECK(client.status(other) == "0");
  CHECK(models.quick->stats().success_count == 513);
  models.slow.gate.open();
  REQUIRE(pump(engine, [&] { return client.status(id) == "0"; }));
  const auto answers = client.answers(id);
  REQUIRE(answers.size() == kRequests);
  int right = 0;
  for (int i = 0; i < kRequests; ++i) {
    const std::string& answer = answers[static_cast<std::size_t>(i)];
    right +=
        i == 0 || i % 2 ? has_doubled(answer, static_cast<float>(i)) : is_error(answer, "nobody");
  }
  CHECK(right == kRequests);
  CHECK(engine.in_flight() == 0);
}

TEST_CASE("a stream that is held back takes everything along when it ends") {
  Engine engine({});
  Two models(engine);
  GrpcClient client(engine);
  const std::int32_t id = client.open(GrpcClient::head(kStreamPath));
  const std::string message = net::http2_test::with_prefix(infer_message(1, "slow"));
  client.send(id, message);
  client.exchange();
  models.slow.gate.await_entered(1);
  for (int i = 1; i < 5000; ++i) client.send(id, message);
  CHECK(client.status(id).empty());
  CHECK(engine.in_flight() == 1024);
  client.cancel(id);
  client.exchange();
  CHECK(engine.in_flight() == 1);
  models.slow.gate.open();
  REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
  CHECK(models.slow.runs == 1);
  CHECK(engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("a message that cannot be inflated ends its stream") {
  Engine engine({});
  Two models(engine);
  GrpcClient client(engine);
  auto fields = GrpcClient::head(kStreamPath);
  fields.emplace_back("grpc-encoding", "gzip");
  const std::int32_t id = client.open(fields);
  client.say(id, infer_message(1, "slow"));
  client.say(id, infer_message(1, "slow"));
  client.exchange();
  models.slow.gate.await_entered(1);
  client.send(id, net::http2_test::with_prefix("no gzip", true));
  CHECK(client.status(id) == "3");
  CHECK(engine.in_flight() == 1);
  models.slow.gate.open();
  REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
  CHECK(models.slow.runs == 1);
}

TEST_CASE("thousands of streams one after another leave nothing behind") {
  Engine engine({});
  Two models(engine);
  GrpcClient client(engine);
  for (int i = 0; i < 3000; ++i) {
    const std::int32_t id = client.begin(kStreamPath, infer_message(1, "quick"));
    client.exchange();
    engine.tick();
    REQUIRE(client.status(id) == "0");
    client.calls.erase(id);
  }
  CHECK(engine.in_flight() == 0);
  CHECK(engine.pool().stats().in_use_bytes == 0);
  CHECK(models.quick->stats().success_count == 3000);
}

}  // namespace
}  // namespace servolley::engine
