#include <doctest/doctest.h>

#include <thread>

#include "harness.h"

namespace servolley::engine {
namespace {

TEST_CASE("inline: everything that one tick read is one batch, answered in order") {
  Engine engine({});
  auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                        with(Execution::kInline));
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 5; ++i) {
    clients.push_back(std::make_unique<Client>(engine));
    CHECK((clients.back()->send(infer_row(static_cast<float>(i))) & kTick) != 0);
  }
  CHECK(engine.in_flight() == 5);
  engine.tick();
  for (int i = 0; i < 5; ++i) {
    Answer answer;
    REQUIRE(clients[static_cast<std::size_t>(i)]->read(answer));
    CHECK(answer.status == 200);
    CHECK(first_value(answer) == 2.0F * static_cast<float>(i));
  }
  CHECK(engine.in_flight() == 0);
  const ServableStats& stats = servable->stats();
  CHECK(stats.success_count == 5);
  CHECK(stats.executions == 1);
  CHECK(stats.inference_rows == 5);
  REQUIRE(stats.batches.size() == 1);
  CHECK(stats.batches[0].rows == 5);
}

TEST_CASE("pipelined calls on one connection are answered in call order") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  Client client(engine);
  client.send(infer_row(1) + infer_row(2, "absent") + infer_row(3));
  engine.tick();
  Answer answer;
  REQUIRE(client.read(answer));
  CHECK(first_value(answer) == 2.0F);
  REQUIRE(client.read(answer));
  CHECK(answer.status == 404);
  CHECK(answer.body == R"({"error":"Request for unknown model: 'absent' is not found"})");
  REQUIRE(client.read(answer));
  CHECK(first_value(answer) == 6.0F);
  CHECK(engine.front_stats().unknown_model_requests == 1);
}

TEST_CASE("threads: batches form behind a busy instance and every request is answered once") {
  Engine engine({});
  Gate gate;
  Body doubled = doubling(engine.pool());
  auto servable = serve(
      engine, unary_signature(DType::kFp32),
      [&](auto inputs, auto rows, auto outputs) {
        gate.wait();
        return doubled(inputs, rows, outputs);
      },
      with(Execution::kThreads));
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 9; ++i) {
    clients.push_back(std::make_unique<Client>(engine));
    clients.back()->send(infer_row(static_cast<float>(i)));
    if (i == 0) gate.await_entered(1);
  }
  gate.open();
  std::vector<Answer> answers(9);
  std::vector<bool> have(9, false);
  REQUIRE(pump(engine, [&] {
    bool all = true;
    for (std::size_t i = 0; i < 9; ++i) {
      if (!have[i]) have[i] = clients[i]->read(answers[i]);
      all = all && have[i];
    }
    return all;
  }));
  for (std::size_t i = 0; i < 9; ++i)
    CHECK(first_value(answers[i]) == 2.0F * static_cast<float>(i));
  CHECK(servable->stats().executions == 2);  // the first alone, then the eight that waited
}

TEST_CASE("one poisoned request fails alone, its neighbours are answered") {
  Engine engine({});
  auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                        with(Execution::kInline));
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 8; ++i) {
    clients.push_back(std::make_unique<Client>(engine));
    clients.back()->send(infer_row(i == 5 ? -1.0F : static_cast<float>(i)));
  }
  engine.tick();
  for (std::size_t i = 0; i < 8; ++i) {
    Answer answer;
    REQUIRE(clients[i]->read(answer));
    if (i == 5) {
      CHECK(answer.status == 500);
      CHECK(answer.body == R"({"error":"poisoned row"})");
    } else {
      CHECK(first_value(answer) == 2.0F * static_cast<float>(i));
    }
  }
  CHECK(servable->stats().success_count == 7);
  CHECK(servable->stats().failures[static_cast<std::size_t>(FailureReason::kBackend)] == 1);
}

TEST_CASE("a runtime that throws fails its batch, not the process") {
  Engine engine({});
  serve(
      engine, unary_signature(DType::kFp32),
      [](auto, auto, auto) -> Status { throw std::runtime_error("boom"); },
      with(Execution::kThreads));
  Client client(engine);
  client.send(infer_row(1));
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 500);
  CHECK(answer.body == R"({"error":"the runtime failed: boom"})");
}

TEST_CASE("a model whose outputs are not batched is detected and served one by one") {
  Engine engine({});
  Body doubled = doubling(engine.pool());
  auto servable = serve(
      engine, unary_signature(DType::kFp32),
      [&](auto inputs, auto rows, auto outputs) {
        SERVOLLEY_TRY(doubled(inputs, rows, outputs));
        outputs[0].view.shape = {1, 4};  // as if it reduced over its first dimension
        outputs[0].view.bytes = 16;
        return Status();
      },
      with(Execution::kInline));
  Client a(engine);
  Client b(engine);
  a.send(infer_row(1));
  b.send(infer_row(2));
  engine.tick();
  Answer answer;
  REQUIRE(a.read(answer));
  CHECK(first_value(answer) == 2.0F);
  REQUIRE(b.read(answer));
  CHECK(first_value(answer) == 4.0F);
  CHECK(servable->stats().executions == 2);
}

TEST_CASE("BYTES rows of a batch go back to their requests") {
  Engine engine({});
  Pool& pool = engine.pool();
  serve(
      engine, unary_signature(DType::kBytes, {-1, -1}),
      [&pool](auto inputs, auto, auto outputs) { return copy_through(pool, inputs, outputs); },
      with(Execution::kInline));
  const auto call = [](const std::string& data, const std::string& shape) {
    return post("/v2/models/m/infer", R"({"inputs":[{"name":"x","datatype":"BYTES","shape":)" +
                                          shape + R"(,"data":)" + data + "}]}");
  };
  Client a(engine);
  Client b(engine);
  a.send(call(R"(["one","","three"])", "[1,3]"));
  b.send(call(R"(["a","bb","ccc","dddd","eeeee","f"])", "[2,3]"));
  engine.tick();
  Answer answer;
  REQUIRE(a.read(answer));
  CHECK(answer.body.find(R"("data":["one","","three"])") != std::string::npos);
  REQUIRE(b.read(answer));
  CHECK(answer.body.find(R"("data":["a","bb","ccc","dddd","eeeee","f"])") != std::string::npos);
}

// A model whose only instance is inside a run, which a client waits for.
struct Occupied {
  Engine engine{EngineOptions()};
  Gate gate;
  std::atomic<int> rows_run{0};
  Body doubled = doubling(engine.pool());
  std::shared_ptr<Servable> servable = serve(
      engine, unary_signature(DType::kFp32),
      [this](auto inputs, auto rows, auto outputs) {
        gate.wait();
        rows_run += static_cast<int>(rows);
        return doubled(inputs, rows, outputs);
      },
      with(Execution::kThreads));
  Client running{engine};

  Occupied() {
    running.send(infer_row(1));
    gate.await_entered(1);
  }
};

TEST_CASE("a client that closes its side: what has waited never runs, what runs is sent") {
  using namespace std::chrono_literals;
  Occupied setup;
  auto& [engine, gate, rows_run, doubled, servable, running] = setup;
  Client patient(engine);
  patient.send(infer_row(2));
  Client waiting(engine);
  for (int i = 0; i < 3; ++i) waiting.send(infer_row(2));
  std::this_thread::sleep_for(20ms);
  Client hasty(engine);  // closes with its last request
  hasty.send(infer_row(3));
  CHECK(servable->waiting() == 5);
  running.connection().eof_received();
  waiting.connection().eof_received();
  hasty.connection().eof_received();
  CHECK(servable->waiting() == 2);
  Answer answer;
  for (int i = 0; i < 3; ++i) {
    REQUIRE(waiting.read(answer));
    CHECK(answer.status == 499);
  }
  gate.open();
  REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
  for (Client* client : {&running, &patient, &hasty}) {
    REQUIRE(client->read(answer));
    CHECK(answer.status == 200);
  }
  CHECK(rows_run == 3);
  CHECK(servable->stats().failures[static_cast<std::size_t>(FailureReason::kCanceled)] == 3);
  CHECK(engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("a client that leaves: what waits never runs, what runs is not sent") {
  Occupied setup;
  auto& [engine, gate, rows_run, doubled, servable, running] = setup;
  Client waiting(engine);
  for (int i = 0; i < 20; ++i) waiting.send(infer_row(2));
  CHECK(servable->waiting() == 20);
  running.hang_up();
  waiting.hang_up();
  CHECK(servable->waiting() == 0);
  gate.open();
  REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
  CHECK(rows_run == 1);
  CHECK(servable->stats().failures[static_cast<std::size_t>(FailureReason::kCanceled)] == 21);
  CHECK(engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("deadlines are answered on time though the instance is busy") {
  Engine engine({});
  Gate gate;
  Body doubled = doubling(engine.pool());
  auto servable = serve(
      engine, unary_signature(DType::kFp32),
      [&](auto inputs, auto rows, auto outputs) {
        gate.wait();
        return doubled(inputs, rows, outputs);
      },
      with(Execution::kThreads));
  Client running(engine);
  running.send(infer_row(1));
  gate.await_entered(1);
  Client late(engine);
  late.send(post("/v2/models/m/infer",
                 R"({"parameters":{"timeout":1000},"inputs":[{"name":"x","datatype":"FP32",)"
                 R"("shape":[1,4],"data":[1,2,3,4]}]})"));
  CHECK(engine.next_expiry(Clock::now()) < Clock::now() + std::chrono::milliseconds(2));
  Answer answer;
  REQUIRE(pump(engine, [&] { return late.read(answer); }));
  CHECK(answer.status == 503);
  CHECK(answer.head.find("Retry-After: 1\r\n") != std::string::npos);
  CHECK(answer.body == R"({"error":"Request timeout expired"})");
  gate.open();
  REQUIRE(pump(engine, [&] { return running.read(answer); }));
  CHECK(answer.status == 200);
  CHECK(servable->stats().executions == 1);
}

TEST_CASE("a full queue answers at once") {
  Engine engine({});
  Gate gate;
  ServableOptions options = with(Execution::kThreads);
  options.max_queue_size = 2;
  Body doubled = doubling(engine.pool());
  serve(
      engine, unary_signature(DType::kFp32),
      [&](auto inputs, auto rows, auto outputs) {
        gate.wait();
        return doubled(inputs, rows, outputs);
      },
      options);
  Client client(engine);
  client.send(infer_row(1));
  gate.await_entered(1);
  client.send(infer_row(2) + infer_row(3));
  Client refused(engine);
  refused.send(infer_row(4));
  Answer answer;
  REQUIRE(refused.read(answer));
  CHECK(answer.status == 503);
  CHECK(answer.body == R"({"error":"Exceeds maximum queue size"})");
  gate.open();
  for (int i = 0; i < 3; ++i) REQUIRE(pump(engine, [&] { return client.read(answer); }));
}

TEST_CASE("close waits for what was admitted") {
  Engine engine({});
  Gate gate;
  Body doubled = doubling(engine.pool());
  auto servable = serve(
      engine, unary_signature(DType::kFp32),
      [&](auto inputs, auto rows, auto outputs) {
        gate.wait();
        return doubled(inputs, rows, outputs);
      },
      with(Execution::kThreads));
  Client client(engine);
  client.send(infer_row(3));
  gate.await_entered(1);
  engine.remove_routes("m");
  std::atomic<bool> closed{false};
  std::jthread closer([&] {
    servable->close();
    closed = true;
  });
  Client after(engine);
  after.send(infer_row(1));
  Answer answer;
  REQUIRE(after.read(answer));
  CHECK(answer.status == 404);
  CHECK_FALSE(closed);
  gate.open();
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(first_value(answer) == 6.0F);
  REQUIRE(pump(engine, [&] { return closed.load(); }));
}

TEST_CASE("draining refuses new work and closes idle connections") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  Client idle(engine);
  engine.begin_drain();
  std::vector<std::shared_ptr<Connection>> attention;
  engine.take_attention(attention);
  REQUIRE(attention.size() == 1);
  CHECK((attention[0]->attend() & kClose) != 0);
}

TEST_CASE("auto: a fast model runs inline, a slow one gets a thread") {
  Engine engine({});
  auto fast = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                    with(Execution::kAuto, true));
  CHECK(fast->runs_inline());
  Body doubled = doubling(engine.pool());
  auto slow = serve(
      engine, unary_signature(DType::kFp32),
      [&](auto inputs, auto rows, auto outputs) {
        const TimePoint stop = Clock::now() + std::chrono::milliseconds(1);
        while (Clock::now() < stop) {
        }
        return doubled(inputs, rows, outputs);
      },
      with(Execution::kAuto, true), "slow");
  CHECK_FALSE(slow->runs_inline());
}

TEST_CASE("auto: an inline model that turns slow leaves the loop") {
  EngineOptions engine_options;
  engine_options.inline_threshold_us = 1000;  // so that warm-up settles on inline on any machine
  Engine engine(engine_options);
  std::atomic<int> spin_us{0};
  Body doubled = doubling(engine.pool());
  auto servable = serve(
      engine, unary_signature(DType::kFp32),
      [&](auto inputs, auto rows, auto outputs) {
        const TimePoint stop = Clock::now() + std::chrono::microseconds(spin_us.load());
        while (Clock::now() < stop) {
        }
        return doubled(inputs, rows, outputs);
      },
      with(Execution::kAuto, true));
  REQUIRE(servable->runs_inline());
  spin_us = 3000;
  Client client(engine);
  Answer answer;
  int calls = 0;
  while (servable->runs_inline() && calls < 200) {
    ++calls;
    client.send(infer_row(1));
    REQUIRE(pump(engine, [&] { return client.read(answer); }));
  }
  CHECK_FALSE(servable->runs_inline());
  client.send(infer_row(4));
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(first_value(answer) == 8.0F);
}

TEST_CASE("options that contradict the signature are refused at load") {
  Engine engine({});
  ServableOptions options = with(Execution::kThreads);
  options.max_batch_size = 8;
  auto runner =
      std::make_shared<FakeRunner>(unary_signature(DType::kFp32, {1, 4}), doubling(engine.pool()));
  CHECK(engine.create_servable("m", 1, runner, options).error().code() == Code::kInvalidArgument);
  options = with(Execution::kInline);
  options.max_queue_delay_us = 10;
  CHECK(engine.create_servable("m", 1, runner, options).error().code() == Code::kInvalidArgument);
}

TEST_CASE("a stated batch limit is a limit; an inferred one lets a larger request run alone") {
  Engine engine({});
  ServableOptions stated = with(Execution::kInline);
  stated.max_batch_size = 2;
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), stated);
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline),
        "inferred");
  Client client(engine);
  client.send(infer_row(1, "m", 3) + infer_row(1, "inferred", 65));
  engine.tick();
  Answer answer;
  REQUIRE(client.read(answer));
  CHECK(answer.status == 400);
  CHECK(answer.body == R"({"error":"inference request batch-size must be <= 2 for 'm'"})");
  REQUIRE(client.read(answer));
  CHECK(answer.status == 200);
}

}  // namespace
}  // namespace servolley::engine
