// Calls from inside the process: the same queues, batches, limits and statistics as everybody's.

#include <protozero/pbf_reader.hpp>
#include <protozero/pbf_writer.hpp>

#include "engine/harness.h"
#include "engine/inner_session.h"

namespace servolley::engine {
namespace {

using protozero::pbf_reader;
using protozero::pbf_writer;

// PredictRequest with one FP32 row {value, 1, 2, 3} for input x, as protobuf's own library writes
// it.
std::string predict(float value, const std::string& model = "m", const std::string& input = "x",
                    std::optional<std::int64_t> version = std::nullopt) {
  const auto message = [](auto fill) {
    std::string out;
    pbf_writer writer(out);
    fill(writer);
    return out;
  };
  const std::string spec = message([&](pbf_writer& w) {
    w.add_string(1, model);
    if (version) {
      w.add_message(2, message([&](pbf_writer& v) { v.add_int64(1, *version); }));
    }
  });
  const std::string shape = message([&](pbf_writer& w) {
    for (const std::int64_t dim : {1, 4}) {
      w.add_message(2, message([&](pbf_writer& d) { d.add_int64(1, dim); }));
    }
  });
  const std::string tensor = message([&](pbf_writer& w) {
    const float row[4] = {value, 1, 2, 3};
    w.add_int32(1, 1);
    w.add_message(2, shape);
    w.add_packed_float(5, row, row + 4);
  });
  return message([&](pbf_writer& w) {
    w.add_message(1, spec);
    w.add_message(2, message([&](pbf_writer& e) {
                    e.add_string(1, input);
                    e.add_message(2, tensor);
                  }));
  });
}

// The first value of output y of a PredictResponse.
float first_of(const std::string& response) {
  pbf_reader reader(response);
  REQUIRE(reader.next(1));
  pbf_reader entry = reader.get_message();
  REQUIRE(entry.next(1));
  CHECK(entry.get_string() == "y");
  REQUIRE(entry.next(2));
  pbf_reader tensor = entry.get_message();
  REQUIRE(tensor.next(5));
  const auto values = tensor.get_packed_float();
  REQUIRE(values.size() == 4);
  return *values.begin();
}

struct Inner {
  explicit Inner(Engine& engine) : calls(std::make_shared<InnerConnection>(engine)) {
    calls->opened(-1);
  }
  ~Inner() { calls->closed(); }

  // Results as they come, until there are `count`.
  bool collect(Engine& engine, std::size_t count) {
    return pump(engine, [&] {
      for (InnerResult& result : calls->take_results()) results.push_back(std::move(result));
      return results.size() >= count;
    });
  }

  std::shared_ptr<InnerConnection> calls;
  std::vector<InnerResult> results;
};

TEST_CASE("a call from inside is answered, inline and on threads") {
  for (const Execution execution : {Execution::kInline, Execution::kThreads}) {
    Engine engine{EngineOptions()};
    const auto servable =
        serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(execution));
    {
      Inner inner(engine);
      const std::uint32_t bits = inner.calls->predict(7, predict(21), Dialect::kTfsGrpc, 0);
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
    (void)inner.calls->predict(1, predict(1), Dialect::kTfsHttp, 0);
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
    (void)inner.calls->predict(1, predict(1), Dialect::kTfsGrpc, 0);
    first.send(infer_row(2));
    second.send(infer_row(3));
    (void)inner.calls->predict(2, predict(4), Dialect::kTfsGrpc, 0);
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
      CHECK(inner.calls->predict(9, message, Dialect::kTfsGrpc, 0) == kOutput);
      auto results = inner.calls->take_results();
      REQUIRE(results.size() == 1);
      CHECK(results[0].exchange == 9);
      CHECK(results[0].response.empty());
      return results[0].status.code();
    };
    CHECK(code("") == Code::kInvalidArgument);
    CHECK(code("\xff") == Code::kInvalidArgument);
    CHECK(code(predict(1, "nobody")) == Code::kNotFound);
    CHECK(code(predict(1, "m", "x", 5)) == Code::kNotFound);
    CHECK(code(predict(1, "m", "z")) == Code::kInvalidArgument);
    engine.begin_drain();
    CHECK(code(predict(1)) == Code::kUnavailable);
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
    (void)inner.calls->predict(1, predict(-1), Dialect::kTfsGrpc, 0);
    gate.await_entered(1);
    // The instance is busy: these wait.
    CHECK((inner.calls->predict(2, predict(1), Dialect::kTfsGrpc, 1'000) & kTick) == kTick);
    (void)inner.calls->predict(3, predict(1), Dialect::kTfsGrpc, 0);
    inner.calls->cancel(3);
    inner.calls->cancel(3);
    inner.calls->cancel(99);
    CHECK(engine.in_flight() == 2);
    REQUIRE(inner.collect(engine, 1));
    CHECK(inner.results[0].exchange == 2);
    CHECK(inner.results[0].status.code() == Code::kDeadlineExceeded);
    // Cancelled while it runs: its result is nobody's.
    (void)inner.calls->predict(4, predict(5), Dialect::kTfsGrpc, 0);
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
    (void)inner.calls->predict(1, predict(1), Dialect::kTfsGrpc, 0);
    gate.await_entered(1);
    (void)inner.calls->predict(2, predict(1), Dialect::kTfsGrpc, 0);
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
