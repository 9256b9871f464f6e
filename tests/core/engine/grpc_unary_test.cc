#include <doctest/doctest.h>

#include "grpc_harness.h"

namespace servolley::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("ModelInfer and Predict of one read are one batch, and counted by dialect") {
  Engine engine({});
  auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                        with(Execution::kInline));
  GrpcClient client(engine);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 6; ++i) {
    const auto value = static_cast<float>(i);
    ids.push_back(i % 2 ? client.begin(kPredictPath, predict_message(value))
                        : client.begin(kInferPath, infer_message(value, "m", "id")));
  }
  client.exchange();
  engine.tick();
  for (int i = 0; i < 6; ++i) {
    const std::int32_t id = ids[static_cast<std::size_t>(i)];
    CHECK(client.status(id) == "0");
    REQUIRE(client.answers(id).size() == 1);
    CHECK(has_doubled(client.answers(id)[0], static_cast<float>(i)));
  }
  const ServableStats& stats = servable->stats();
  CHECK(stats.success_count == 6);
  CHECK(stats.executions == 1);
  CHECK(stats.responses[static_cast<std::size_t>(Dialect::kOipGrpc)][0] == 3);
  CHECK(stats.responses[static_cast<std::size_t>(Dialect::kTfsGrpc)][0] == 3);
  CHECK(engine.front_stats().responses[200] == 6);
  CHECK(engine.in_flight() == 0);
}

TEST_CASE("HTTP/1.1 and gRPC share a batch") {
  Engine engine({});
  auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                        with(Execution::kInline));
  GrpcClient grpc(engine);
  Client http(engine);
  http.send(infer_row(1));
  const std::int32_t id = grpc.begin(kInferPath, infer_message(2));
  grpc.exchange();
  engine.tick();
  Answer answer;
  REQUIRE(http.read(answer));
  CHECK(first_value(answer) == 2.0F);
  CHECK(grpc.status(id) == "0");
  CHECK(has_doubled(grpc.answers(id).at(0), 2));
  CHECK(servable->stats().executions == 1);
}

TEST_CASE("who talks alone is answered within its read") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  GrpcClient client(engine);
  std::int32_t id = 0;
  for (int i = 0; i < 4; ++i) {
    id = client.begin(kInferPath, infer_message(1));
    client.exchange();
    if (i == 0) engine.tick();
  }
  CHECK(client.status(id) == "0");
}

TEST_CASE("errors have their codes and take no request along") {
  Engine engine({});
  auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                        with(Execution::kInline));
  GrpcClient client(engine);
  const std::string shortened = infer_message(1, "m", "", std::string(15, '\0'));
  const std::int32_t good = client.begin(kInferPath, infer_message(3));
  const std::int32_t unknown = client.begin(kInferPath, infer_message(1, "nobody"));
  const std::int32_t misfit = client.begin(kInferPath, shortened);
  const std::int32_t malformed = client.begin(kInferPath, "\xff");
  const std::int32_t nothing = client.begin(kPredictPath, "");
  const std::int32_t poisoned = client.begin(kInferPath, infer_message(-1));
  client.exchange();
  engine.tick();
  CHECK(client.status(good) == "0");
  CHECK(client.status(unknown) == "5");
  CHECK(client.status(misfit) == "3");
  CHECK(client.status(malformed) == "3");
  CHECK(client.status(nothing) == "3");
  CHECK(client.calls[nothing].message() == "Missing ModelSpec");
  CHECK(client.status(poisoned) == "13");
  CHECK(client.calls[poisoned].message() == "poisoned row");
  CHECK(has_doubled(client.answers(good).at(0), 3));
  CHECK(engine.in_flight() == 0);
  CHECK(engine.front_stats().unknown_model_requests == 1);
  CHECK(failures(*servable, FailureReason::kBackend) == 1);
  CHECK(failures(*servable, FailureReason::kOther) == 1);
}

TEST_CASE("a unary call has one message") {
  Engine engine({});
  Gated model(engine);
  GrpcClient client(engine);
  const std::int32_t blocker = client.begin(kInferPath, infer_message(1));
  client.exchange();
  model.gate.await_entered(1);
  const std::int32_t none = client.open(GrpcClient::head(kInferPath));
  client.half_close(none);
  const std::int32_t two = client.open(GrpcClient::head(kInferPath));
  client.say(two, infer_message(2));
  client.say(two, infer_message(3));
  CHECK(client.status(none) == "12");
  CHECK(client.status(two) == "12");
  CHECK(engine.in_flight() == 1);  // the first message of the second call is forgotten
  CHECK(failures(*model.servable, FailureReason::kCanceled) == 1);
  model.gate.open();
  REQUIRE(pump(engine, [&] { return client.status(blocker) == "0"; }));
  CHECK(model.runs == 1);
}

TEST_CASE("a message above the limit, as sent and inflated") {
  EngineOptions options;
  options.http2.message_bytes = 1000;
  Engine engine(options);
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  GrpcClient client(engine);
  const std::int32_t large = client.begin(kInferPath, std::string(1001, 'x'));
  CHECK(client.status(large) == "8");

  const std::string zeros(100'000, '\0');
  Payload payload;
  payload.add_static(zeros);
  auto packed = codec::deflate(codec::Coding::kGzip, payload, engine.pool());
  REQUIRE(packed.has_value());
  const std::string bomb(reinterpret_cast<const char*>(packed->owner.data()), packed->size);
  REQUIRE(bomb.size() < 1000);
  auto fields = GrpcClient::head(kInferPath);
  fields.emplace_back("grpc-encoding", "gzip");
  const std::int32_t inflated = client.open(fields);
  client.send(inflated, net::http2_test::with_prefix(bomb, true));
  client.half_close(inflated);
  CHECK(client.status(inflated) == "8");

  const std::int32_t good = client.begin(kInferPath, infer_message(1));
  client.exchange();
  engine.tick();
  CHECK(client.status(good) == "0");
}

TEST_CASE("a compressed request") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  GrpcClient client(engine);
  for (const auto& [coding, name] :
       {std::pair(codec::Coding::kGzip, "gzip"), std::pair(codec::Coding::kDeflate, "deflate")}) {
    const std::string message = infer_message(4);
    Payload payload;
    payload.add_static(message);
    auto packed = codec::deflate(coding, payload, engine.pool());
    REQUIRE(packed.has_value());
    auto fields = GrpcClient::head(kInferPath);
    fields.emplace_back("grpc-encoding", name);
    const std::int32_t id = client.open(fields);
    client.send(id, net::http2_test::with_prefix(
                        {reinterpret_cast<const char*>(packed->owner.data()), packed->size}, true));
    client.half_close(id);
    client.exchange();
    engine.tick();
    CHECK(client.status(id) == "0");
    CHECK(has_doubled(client.answers(id).at(0), 4));
  }
}

TEST_CASE("deadlines: who waits too long is refused and does not run") {
  Engine engine({});
  Gated model(engine);
  GrpcClient client(engine);
  const std::int32_t first = client.begin(kInferPath, infer_message(1));
  client.exchange();
  model.gate.await_entered(1);
  const std::int32_t late = client.begin(kInferPath, infer_message(2), "1m");
  const std::int32_t later = client.begin(kPredictPath, predict_message(2), "2m");
  const std::int32_t patient = client.begin(kInferPath, infer_message(3), "1H");
  const std::int32_t stillborn = client.begin(kInferPath, infer_message(4), "1n");
  CHECK(client.status(stillborn) == "4");
  CHECK(client.status(late).empty());
  REQUIRE(pump(engine, [&] { return client.status(late) == "4" && client.status(later) == "4"; }));
  CHECK(client.status(patient).empty());
  model.gate.open();
  REQUIRE(pump(engine, [&] { return client.status(patient) == "0"; }));
  CHECK(client.status(first) == "0");
  CHECK(model.runs == 2);
  CHECK(failures(*model.servable, FailureReason::kRejected) == 3);
}

TEST_CASE("deadlines: a call whose message does not come, and no call before its time") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  GrpcClient client(engine);
  const std::int32_t silent = client.open(GrpcClient::head(kInferPath, "5S"));
  const std::int32_t partial = client.open(GrpcClient::head(kPredictPath, "5S"));
  client.send(partial, net::http2_test::with_prefix(predict_message(1)).substr(0, 20));
  const std::int32_t patient = client.open(GrpcClient::head(kInferPath, "1H"));
  client.exchange();
  const TimePoint now = Clock::now();
  engine.expire(now + seconds(4));
  CHECK(client.status(silent).empty());
  engine.expire(now + seconds(6));
  CHECK(client.status(silent) == "4");
  CHECK(client.status(partial) == "4");
  CHECK(client.status(patient).empty());
  // The sweep comes by itself while there is a connection.
  CHECK(engine.next_expiry(now + seconds(6)) <= now + seconds(7));
  client.say(patient, infer_message(1));
  client.half_close(patient);
  client.exchange();
  engine.tick();
  CHECK(client.status(patient) == "0");
}

TEST_CASE("a cancelled call does not run, one that runs is not answered") {
  Engine engine({});
  Gated model(engine);
  GrpcClient client(engine);
  const std::int32_t running = client.begin(kInferPath, infer_message(1));
  client.exchange();
  model.gate.await_entered(1);
  const std::int32_t waiting = client.begin(kInferPath, infer_message(2));
  const std::int32_t other = client.begin(kInferPath, infer_message(3));
  client.exchange();
  client.cancel(running);
  client.cancel(waiting);
  client.exchange();
  CHECK(failures(*model.servable, FailureReason::kCanceled) == 1);
  model.gate.open();
  REQUIRE(pump(engine, [&] { return client.status(other) == "0"; }));
  CHECK(model.runs == 2);
  CHECK(failures(*model.servable, FailureReason::kCanceled) == 2);
  CHECK(client.calls[running].body.empty());
  CHECK(engine.in_flight() == 0);
}

TEST_CASE("a connection that closes with work in flight") {
  Engine engine({});
  Gated model(engine);
  {
    GrpcClient client(engine);
    client.begin(kInferPath, infer_message(1));
    client.exchange();
    model.gate.await_entered(1);
    for (int i = 0; i < 5; ++i) client.begin(kInferPath, infer_message(2));
    const std::int32_t stream = client.open(GrpcClient::head(kStreamPath));
    for (int i = 0; i < 5; ++i) client.say(stream, infer_message(2));
    const std::int32_t half = client.open(GrpcClient::head(kInferPath));
    client.send(half, net::http2_test::with_prefix(infer_message(2)).substr(0, 30));
    client.exchange();
    CHECK(engine.in_flight() == 11);
  }
  CHECK(engine.in_flight() == 1);
  CHECK(failures(*model.servable, FailureReason::kCanceled) == 10);
  model.gate.open();
  REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
  CHECK(model.runs == 1);
  CHECK(failures(*model.servable, FailureReason::kCanceled) == 11);
  CHECK(engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("a client that half-closes its socket is gone") {
  Engine engine({});
  Gated model(engine);
  GrpcClient client(engine);
  client.begin(kInferPath, infer_message(1));
  client.exchange();
  model.gate.await_entered(1);
  client.begin(kInferPath, infer_message(2));
  client.exchange();
  CHECK((client.wire.connection().eof_received() & kClose) != 0);
  CHECK(failures(*model.servable, FailureReason::kCanceled) == 1);
  model.gate.open();
  REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
  CHECK(model.runs == 1);
}

TEST_CASE("a drain answers what is in flight, refuses what comes and closes") {
  Engine engine({});
  Gated model(engine);
  GrpcClient client(engine);
  const std::int32_t under_way = client.begin(kInferPath, infer_message(1));
  client.exchange();
  model.gate.await_entered(1);
  const std::int32_t open = client.open(GrpcClient::head(kInferPath));
  client.exchange();
  engine.begin_drain();
  client.say(open, infer_message(2));
  client.half_close(open);
  CHECK(client.status(open) == "14");
  CHECK(client.status(under_way).empty());
  model.gate.open();
  std::uint32_t bits = 0;
  REQUIRE(pump(engine, [&] {
    client.exchange();
    bits |= client.wire.connection().attend();
    return (bits & kClose) != 0;
  }));
  CHECK(client.status(under_way) == "0");
  CHECK(!client.goaways.empty());
}

}  // namespace
}  // namespace servolley::engine
