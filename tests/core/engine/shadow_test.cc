#include "engine/shadow.h"

#include <thread>

#include "versions.h"

namespace servolley::engine {
namespace {

// Version 1 answers, version 2 is its shadow.
struct Shadowed {
  explicit Shadowed(Engine& on, Body first, Body second, const ShadowOptions& options = {},
                    const Signature& signature = unary_signature(DType::kFp32))
      : engine(on),
        one(version(engine, 1, std::move(first))),
        two(version(engine, 2, std::move(second), with(Execution::kInline), signature)),
        shadow(engine.create_shadow(two, options)) {
    ModelRoutes routes = routes_to({one, two});
    routes.shadow = shadow;
    engine.set_routes("m", routes);
  }
  ~Shadowed() {
    engine.remove_routes("m");
    shadow->close();
  }

  // Waits for everything that was taken.
  ShadowStats settled() const {
    REQUIRE(pump(engine, [&] { return shadow->stats().in_flight == 0; }));
    return shadow->stats();
  }

  Engine& engine;
  std::shared_ptr<Servable> one;
  std::shared_ptr<Servable> two;
  std::shared_ptr<Shadow> shadow;
};

TEST_CASE("a shadow's answers are compared and counted nowhere else") {
  Engine engine({});
  Pool& pool = engine.pool();
  Shadowed s(engine, times(pool, 2), times(pool, 3));
  Client client(engine);
  for (int i = 0; i < 5; ++i) CHECK(ask(engine, client, infer_row(8, "m", 2)) == 16.0F);
  const ShadowStats stats = s.settled();
  CHECK(stats.taken == 5);
  CHECK(stats.compared == 5);
  CHECK(stats.rows == 10);
  CHECK(stats.dropped + stats.failed + stats.incompatible == 0);
  CHECK(stats.comparison.max_abs_error == 8);  // 16 and 24
  CHECK(stats.comparison.max_rel_error == doctest::Approx(1.0 / 3));
  CHECK(stats.comparison.label_flips == 0);
  CHECK(s.one->stats().success_count == 5);
  CHECK(s.two->stats().success_count == 0);
  CHECK(s.two->stats().executions == 0);
  CHECK(engine.in_flight() == 0);
}

TEST_CASE("a shadow that hangs: answers go out, copies are dropped, memory stays bounded") {
  Engine engine({});
  Pool& pool = engine.pool();
  Gate gate;
  Body thrice = times(pool, 3);
  ShadowOptions options;
  options.max_in_flight = 5;
  Shadowed s(
      engine, times(pool, 2),
      [&](auto inputs, auto rows, auto outputs) {
        gate.wait();
        return thrice(inputs, rows, outputs);
      },
      options);
  Client client(engine);
  CHECK(ask(engine, client) == 2.0F);
  gate.await_entered(1);
  for (int i = 0; i < 50; ++i) CHECK(ask(engine, client) == 2.0F);
  const ShadowStats stats = s.shadow->stats();
  CHECK(stats.in_flight == 5);
  CHECK(stats.taken == 5);
  CHECK(stats.dropped == 46);
  CHECK(s.one->stats().success_count == 51);
  gate.open();
  CHECK(s.settled().compared == 5);
}

TEST_CASE("a shadow that fails or throws fails alone") {
  Engine engine({});
  Pool& pool = engine.pool();
  std::atomic<int> calls{0};
  Shadowed s(engine, times(pool, 2), [&](auto, auto, auto) -> Status {
    if (calls++ % 2 == 0) throw std::runtime_error("boom");
    return internal_error("no");
  });
  Client client(engine);
  for (int i = 0; i < 6; ++i) {
    CHECK(ask(engine, client) == 2.0F);
    s.settled();
  }
  const ShadowStats stats = s.settled();
  CHECK(stats.failed == 6);
  CHECK(stats.compared == 0);
}

TEST_CASE("one bad copy of a batch fails alone, and batches form behind a busy shadow") {
  Engine engine({});
  Pool& pool = engine.pool();
  Gate gate;
  std::atomic<int> runs{0};
  Body doubled = doubling(pool);  // a row of -1 fails its run
  Shadowed s(engine, times(pool, 2), [&](auto inputs, auto rows, auto outputs) {
    gate.wait();
    ++runs;
    return doubled(inputs, rows, outputs);
  });
  Client client(engine);
  ask(engine, client);
  gate.await_entered(1);
  for (int i = 0; i < 8; ++i) ask(engine, client, infer_row(i == 5 ? -1.0F : 1.0F));
  gate.open();
  const ShadowStats stats = s.settled();
  CHECK(stats.compared == 8);
  CHECK(stats.failed == 1);
  CHECK(stats.comparison.max_abs_error == 0);
  CHECK(runs < 1 + 8);
}

TEST_CASE("the fraction is exact, and who names a version is not copied") {
  Engine engine({});
  Pool& pool = engine.pool();
  ShadowOptions options;
  options.fraction_ppm = 250'000;
  options.max_in_flight = 100;
  Shadowed s(engine, times(pool, 2), times(pool, 2), options);
  Client client(engine);
  for (int i = 0; i < 40; ++i) {
    ask(engine, client);
    ask(engine, client, infer_row(1, "m/versions/1"));
    ask(engine, client, infer_row(1, "m/versions/2"));
  }
  CHECK(s.settled().taken == 10);
}

TEST_CASE("what the shadow's version answered itself is not copied") {
  Engine engine({});
  Pool& pool = engine.pool();
  Shadowed s(engine, times(pool, 1), times(pool, 2));
  ModelRoutes routes = routes_to({s.one, s.two});
  routes.split = {s.one, s.two};
  routes.choice.add(1);
  routes.choice.add(1);
  routes.shadow = s.shadow;
  engine.set_routes("m", routes);
  Client client(engine);
  for (int i = 0; i < 10; ++i) ask(engine, client);
  CHECK(s.settled().compared == 5);
}

TEST_CASE("requests that fail, and their clients' failures, are not copied") {
  Engine engine({});
  Pool& pool = engine.pool();
  Shadowed s(engine, doubling(pool), times(pool, 2));
  Client client(engine);
  client.send(infer_row(-1) + post("/v2/models/m/infer", "{}"));
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 500);
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 400);
  CHECK(s.settled().taken == 0);
}

TEST_CASE("another signature: what cannot be asked is counted") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto check = [&](Signature signature) {
    Shadowed s(engine, times(pool, 2), times(pool, 2), {}, signature);
    Client client(engine);
    CHECK(ask(engine, client) == 2.0F);
    const ShadowStats stats = s.settled();
    CHECK(stats.incompatible == 1);
    CHECK(stats.taken == 0);
    engine.remove_routes("m");
    CHECK(pool.stats().in_use_bytes == 0);
  };
  check(unary_signature(DType::kFp32, {-1, 5}));
  check(unary_signature(DType::kFp64));
  Signature renamed = unary_signature(DType::kFp32);
  renamed.inputs[0].name = "z";
  check(renamed);
  Signature other_output = unary_signature(DType::kFp32);
  other_output.outputs[0].name = "z";
  check(other_output);
}

TEST_CASE("inputs and outputs are matched by their names; more of them do not matter") {
  Engine engine({});
  Pool& pool = engine.pool();
  Signature signature = unary_signature(DType::kFp32);
  signature.outputs.insert(signature.outputs.begin(), signature.outputs[0]);
  signature.outputs[0].name = "extra";
  Shadowed s(
      engine, times(pool, 2),
      [&](auto inputs, auto, auto outputs) {
        SERVOLLEY_TRY(copy_through(pool, inputs, outputs));
        SERVOLLEY_TRY(copy_through(pool, inputs, outputs.subspan(1)));
        return Status();
      },
      {}, signature);
  Client client(engine);
  CHECK(ask(engine, client, infer_row(8)) == 16.0F);
  const ShadowStats stats = s.settled();
  CHECK(stats.compared == 1);
  CHECK(stats.comparison.max_abs_error == 8);
}

TEST_CASE("copies that would keep too much memory are dropped") {
  Engine engine({});
  Pool& pool = engine.pool();
  Gate gate;
  ShadowOptions options;
  options.max_bytes = 64 << 10;
  Body twice = times(pool, 2);
  Shadowed s(
      engine, times(pool, 2),
      [&](auto inputs, auto rows, auto outputs) {
        gate.wait();
        return twice(inputs, rows, outputs);
      },
      options);
  Client client(engine);
  for (int i = 0; i < 8; ++i) ask(engine, client, infer_row(1, "m", 600));  // 2 * 9.6 KB each
  const ShadowStats stats = s.shadow->stats();
  CHECK(stats.taken >= 2);
  CHECK(stats.taken <= 3);
  CHECK(stats.dropped == 8 - stats.taken);
  CHECK(pool.stats().in_use_bytes <= 64 << 10);
  gate.open();
  s.settled();
  ask(engine, client, infer_row(1, "m", 600));
  CHECK(s.settled().compared == stats.taken + 1);  // there is room again
}

TEST_CASE("a shadow that is routed no more takes nothing, not even what was begun for it") {
  Engine engine({});
  Pool& pool = engine.pool();
  Shadowed s(engine, times(pool, 2), times(pool, 2));
  Client client(engine);
  client.send(infer_row(1));
  engine.set_routes("m", routes_to({s.one, s.two}));
  s.shadow->close();
  engine.tick();
  Answer answer;
  REQUIRE(client.read(answer));
  CHECK(first_value(answer) == 2.0F);
  CHECK(s.shadow->stats().taken == 0);
  CHECK(pool.stats().in_use_bytes == 0);
}

TEST_CASE("closing lets go of what waits, while the loop goes on answering") {
  Engine engine({});
  Pool& pool = engine.pool();
  Gate gate;
  Body twice = times(pool, 2);
  Shadowed s(engine, times(pool, 2), [&](auto inputs, auto rows, auto outputs) {
    gate.wait();
    return twice(inputs, rows, outputs);
  });
  Client client(engine);
  ask(engine, client);
  gate.await_entered(1);
  for (int i = 0; i < 20; ++i) ask(engine, client);
  engine.set_routes("m", routes_to({s.one, s.two}));
  std::atomic<bool> closed{false};
  std::jthread closer([&] {
    s.shadow->close();
    closed = true;
  });
  for (int i = 0; i < 20; ++i) CHECK(ask(engine, client) == 2.0F);
  CHECK_FALSE(closed);
  gate.open();
  REQUIRE(pump(engine, [&] { return closed.load(); }));
  CHECK(pool.stats().in_use_bytes == 0);
  CHECK(s.shadow->stats().in_flight == 0);
}

TEST_CASE("a version that was closed before its shadow began") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto one = version(engine, 1, times(pool, 2));
  const auto two = version(engine, 2, times(pool, 2));
  two->close();
  const auto shadow = engine.create_shadow(two, {});
  ModelRoutes routes = routes_to({one});
  routes.shadow = shadow;
  engine.set_routes("m", routes);
  Client client(engine);
  CHECK(ask(engine, client) == 2.0F);
  REQUIRE(pump(engine, [&] { return shadow->stats().failed == 1; }));
  engine.remove_routes("m");
  shadow->close();
}

TEST_CASE("threads that answer and a shadow that compares, all at once") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto one = version(engine, 1, times(pool, 2), with(Execution::kThreads));
  const auto two = version(engine, 2, times(pool, 3), with(Execution::kThreads));
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(std::make_unique<Client>(engine));
  std::uint64_t compared = 0;
  for (int round = 0; round < 20; ++round) {
    ShadowOptions options;
    options.max_in_flight = 7;
    const auto shadow = engine.create_shadow(two, options);
    ModelRoutes routes = routes_to({one, two});
    routes.shadow = shadow;
    engine.set_routes("m", routes);
    for (int i = 0; i < 20; ++i) {
      for (auto& client : clients) client->send(infer_row(1));
      for (auto& client : clients) {
        Answer answer;
        REQUIRE(pump(engine, [&] { return client->read(answer); }));
        CHECK(first_value(answer) == 2.0F);
      }
    }
    engine.set_routes("m", routes_to({one, two}));
    shadow->close();
    const ShadowStats stats = shadow->stats();
    CHECK(stats.taken + stats.dropped == 80);
    CHECK(stats.compared <= stats.taken);
    CHECK(stats.failed + stats.incompatible == 0);
    compared += stats.compared;
  }
  CHECK(compared > 0);
  engine.remove_routes("m");
  one->close();
  two->close();
  CHECK(pool.stats().in_use_bytes == 0);
}

}  // namespace
}  // namespace servolley::engine
