// Calls from inside the process: the same queues, batches, limits and statistics as everybody's.

#include "inner.h"

#include <doctest/doctest.h>

namespace servolley::engine {
namespace {

TEST_CASE("a call from inside is answered, inline and on threads") {
  for (const Execution execution : {Execution::kInline, Execution::kThreads}) {
    Engine engine{EngineOptions()};
    const auto servable =
        serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(execution));
    {
      Inner inner(engine);
      const std::uint32_t bits = inner.ask(7, predict(21));
      CHECK(((bits & kTick) != 0) == (execution == Execution::kInline));
      CHECK((bits & kOutput) == 0);
      REQUIRE(inner.collect(engine, 1));
      REQUIRE(inner.results.size() == 1);
      CHECK(inner.results[0].exchange == 7);
      CHECK(inner.results[0].status.ok());
      CHECK(first_of(inner.results[0].response) == 42);
      CHECK(servable->stats().success_count == 1);
      CHECK(servable->stats().responses[static_cast<std::size_t>(Dialect::kTfsGrpc)][0] == 1);
      CHECK(engine.in_flight() == 0);
      // Nobody has connected.
      CHECK(engine.front_stats().connections == 0);
      CHECK(engine.front_stats().connections_total == 0);
    }
    servable->close();
  }
}

TEST_CASE("results ask for attention and are told once") {
  Engine engine{EngineOptions()};
  const auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                              with(Execution::kInline));
  {
    Inner inner(engine);
    (void)inner.ask(1, predict(1), Dialect::kTfsHttp);
    CHECK(engine.in_flight() == 1);
    engine.tick();
    REQUIRE(engine.somebody_needs_attention());
    std::vector<std::shared_ptr<Connection>> attention;
    engine.take_attention(attention);
    REQUIRE(attention.size() == 1);
    CHECK(attention[0] == inner.calls);
    CHECK_FALSE(attention[0]->from_outside());
    CHECK(attention[0]->attend() == kOutput);
    CHECK(inner.calls->take_results().size() == 1);
    CHECK(inner.calls->attend() == 0);
  }
  servable->close();
}

TEST_CASE("it shares batches with clients") {
  Engine engine{EngineOptions()};
  std::atomic<int> runs{0};
  const Body body = doubling(engine.pool());
  const auto servable = serve(
      engine, unary_signature(DType::kFp32),
      [&](std::span<const TensorView> inputs, std::int64_t rows, std::span<OutputTensor> outputs) {
        ++runs;
        return body(inputs, rows, outputs);
      },
      with(Execution::kInline));
  {
    Inner inner(engine);
    Client first(engine);
    Client second(engine);
    (void)inner.ask(1, predict(1));
    first.send(infer_row(2));
    second.send(infer_row(3));
    (void)inner.ask(2, predict(4));
    engine.tick();
    Answer answer;
    REQUIRE(first.read(answer));
    CHECK(first_value(answer) == 4);
    REQUIRE(second.read(answer));
    CHECK(first_value(answer) == 6);
    REQUIRE(inner.collect(engine, 2));
    CHECK(first_of(inner.results[0].response) == 2);
    CHECK(first_of(inner.results[1].response) == 8);
    CHECK(runs == 1);
  }
  servable->close();
}

TEST_CASE("what cannot begin has a result at once") {
  Engine engine{EngineOptions()};
  const auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                              with(Execution::kInline));
  {
    Inner inner(engine);
    const auto code = [&](const std::string& message) {
      CHECK(inner.ask(9, message) == kOutput);
      auto results = inner.calls->take_results();
      REQUIRE(results.size() == 1);
      CHECK(results[0].exchange == 9);
      CHECK(results[0].response.empty());
      return results[0].status.code();
    };
    CHECK(code("") == Code::kInvalidArgument);
    CHECK(code("\xff") == Code::kInvalidArgument);
    CHECK(code(predict(1, "z")) == Code::kInvalidArgument);
    CHECK(engine.in_flight() == 0);
    auto lease = choose(engine);
    REQUIRE(lease);
    lease->release();
    CHECK(inner.calls->predict(9, predict(1), *lease, 0) == kOutput);
    CHECK(inner.calls->take_results().at(0).status.code() == Code::kFailedPrecondition);
    CHECK(engine.in_flight() == 0);
  }
  servable->close();
}

TEST_CASE("a failing run, a deadline and a cancellation") {
  Engine engine{EngineOptions()};
  Gate gate;
  const Body body = doubling(engine.pool());
  const auto servable = serve(
      engine, unary_signature(DType::kFp32),
      [&](std::span<const TensorView> inputs, std::int64_t rows, std::span<OutputTensor> outputs) {
        gate.wait();
        return body(inputs, rows, outputs);
      },
      with(Execution::kThreads));
  {
    Inner inner(engine);
    (void)inner.ask(1, predict(-1));
    gate.await_entered(1);
    // The instance is busy: these wait.
    CHECK((inner.ask(2, predict(1), Dialect::kTfsGrpc, 1'000) & kTick) == kTick);
    (void)inner.ask(3, predict(1));
    inner.calls->cancel(3);
    inner.calls->cancel(3);
    inner.calls->cancel(99);
    CHECK(engine.in_flight() == 2);
    REQUIRE(inner.collect(engine, 1));
    CHECK(inner.results[0].exchange == 2);
    CHECK(inner.results[0].status.code() == Code::kDeadlineExceeded);
    // Cancelled while it runs: its result is nobody's.
    (void)inner.ask(4, predict(5));
    gate.open();
    REQUIRE(inner.collect(engine, 3));
    CHECK(inner.results[1].exchange == 1);
    CHECK(inner.results[1].status.code() == Code::kInternal);
    CHECK(inner.results[2].exchange == 4);
    CHECK(first_of(inner.results[2].response) == 10);
    CHECK(engine.in_flight() == 0);
  }
  servable->close();
}

TEST_CASE("closing cancels what is under way") {
  Engine engine{EngineOptions()};
  Gate gate;
  const auto servable = serve(
      engine, unary_signature(DType::kFp32),
      [&](std::span<const TensorView> inputs, std::int64_t, std::span<OutputTensor> outputs) {
        gate.wait();
        return copy_through(engine.pool(), inputs, outputs);
      },
      with(Execution::kThreads));
  {
    Inner inner(engine);
    (void)inner.ask(1, predict(1));
    gate.await_entered(1);
    (void)inner.ask(2, predict(1));
    inner.calls->closed();
    CHECK(engine.in_flight() == 1);
    gate.open();
    REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
    CHECK(inner.calls->take_results().empty());
    CHECK(servable->stats().failures[static_cast<std::size_t>(FailureReason::kCanceled)] == 2);
  }
  servable->close();
}

}  // namespace
}  // namespace servolley::engine
