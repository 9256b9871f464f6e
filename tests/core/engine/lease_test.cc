// Calls of several steps: what they were routed to waits for their end.

#include "engine/lease.h"

#include <doctest/doctest.h>

#include <thread>

#include "inner.h"
#include "versions.h"

namespace servolley::engine {
namespace {

// A servable that is being closed on a thread of its own.
struct Closing {
  explicit Closing(std::shared_ptr<Servable> servable)
      : thread([this, servable = std::move(servable)] {
          servable->close();
          closed = true;
        }) {}
  std::atomic<bool> closed{false};
  std::jthread thread;
};

// Gives the loop, and whoever waits for it, a tenth of a second.
void turn(Engine& engine) {
  int turns = 0;
  REQUIRE(pump(engine, [&] { return ++turns > 5; }));
}

std::string refusal(const Result<Lease>& lease) {
  REQUIRE_FALSE(lease);
  return std::string(code_name(lease.error().code())) + ": " + lease.error().message();
}

TEST_CASE("a version that was swapped away runs its leases' requests, and is closed after them") {
  for (const Execution execution : {Execution::kInline, Execution::kThreads}) {
    Engine engine({});
    const auto one = version(engine, 1, times(engine.pool(), 1), with(execution));
    const auto two = version(engine, 2, times(engine.pool(), 2), with(execution));
    engine.set_routes("m", routes_to({one}));
    {
      Inner inner(engine);
      auto lease = choose(engine);
      REQUIRE(lease);
      CHECK(lease->target().servable == one);
      CHECK(one->in_flight() == 0);
      engine.set_routes("m", routes_to({two}));
      Closing closing(one);
      turn(engine);
      CHECK_FALSE(closing.closed);
      for (int run = 0; run < 2; ++run) {  // with nothing in flight in between
        inner.results.clear();
        inner.calls->predict(1, predict(5), *lease, 0);
        CHECK(one->in_flight() == 1);
        REQUIRE(inner.collect(engine, 1));
        REQUIRE(inner.results[0].status.ok());
        CHECK(first_of(inner.results[0].response) == 5);
        CHECK(one->in_flight() == 0);
        turn(engine);
        CHECK_FALSE(closing.closed);
      }
      lease->release();
      CHECK(lease->target().servable == nullptr);
      lease->release();
      REQUIRE(pump(engine, [&] { return closing.closed.load(); }));
    }
    engine.remove_routes("m");
    two->close();
  }
}

TEST_CASE("a lease ends with its object, once, on any thread") {
  Engine engine({});
  const auto one = version(engine, 1, times(engine.pool(), 1));
  engine.set_routes("m", routes_to({one}));
  for (int round = 0; round < 20; ++round) {
    auto first = choose(engine);
    REQUIRE(first);
    Lease second(std::move(*first));
    first->release();
    std::jthread elsewhere([lease = std::move(second)] { CHECK(lease.target().servable); });
  }
  engine.remove_routes("m");
  {
    Closing closing(one);
    closing.thread.join();
    CHECK(closing.closed);
  }
}

TEST_CASE("a caller that has gone keeps nothing") {
  Engine engine({});
  Gate gate;
  const auto one = version(
      engine, 1,
      [&](std::span<const TensorView> inputs, std::int64_t, std::span<OutputTensor> outputs) {
        gate.wait();
        return copy_through(engine.pool(), inputs, outputs);
      },
      with(Execution::kThreads));
  engine.set_routes("m", routes_to({one}));
  Inner inner(engine);
  inner.ask(1, predict(1));
  gate.await_entered(1);
  inner.ask(2, predict(1));
  engine.remove_routes("m");
  Closing closing(one);
  inner.calls->cancel(1);
  inner.calls->cancel(2);
  turn(engine);
  CHECK_FALSE(closing.closed);  // one runs
  gate.open();
  REQUIRE(pump(engine, [&] { return closing.closed.load(); }));
  CHECK(engine.in_flight() == 0);
  CHECK(inner.calls->take_results().empty());
}

TEST_CASE("a call is routed as any other, and refused as any other") {
  Engine engine({});
  const auto one = version(engine, 1, times(engine.pool(), 1));
  const auto two = version(engine, 2, times(engine.pool(), 2));
  ModelRoutes routes = routes_to({two, one});
  routes.labels["old"] = 1;
  engine.set_routes("m", routes);
  HotRoute route;
  route.dialect = Dialect::kTfsHttp;
  route.model = "m";
  route.label = "old";
  auto labelled = engine.choose(route);
  REQUIRE(labelled);
  CHECK(labelled->target().servable == one);
  CHECK(labelled->dialect() == Dialect::kTfsHttp);
  CHECK(choose(engine)->target().servable == two);
  CHECK(choose(engine, "m", 1)->target().servable == one);
  route.label = "new";
  CHECK(refusal(engine.choose(route)) ==
        "INVALID_ARGUMENT: Unrecognized servable version label: new");
  CHECK(refusal(choose(engine, "m", 3)) ==
        "NOT_FOUND: Servable not found for request: Specific(m, 3)");
  CHECK(engine.front_stats().unknown_model_requests == 0);
  CHECK(refusal(choose(engine, "nobody")) ==
        "NOT_FOUND: Servable not found for request: Latest(nobody)");
  CHECK(engine.front_stats().unknown_model_requests == 1);
  // A server on its way down takes no new calls, and finishes those that it has.
  engine.begin_drain();
  CHECK(choose(engine).error().code() == Code::kUnavailable);
  Inner inner(engine);
  inner.calls->predict(1, predict(3), *labelled, 0);
  REQUIRE(inner.collect(engine, 1));
  REQUIRE(inner.results[0].status.ok());
  CHECK(first_of(inner.results[0].response) == 3);
}

TEST_CASE("what is chosen counts for a shadow's fraction, and is copied") {
  Engine engine({});
  const auto one = version(engine, 1, times(engine.pool(), 1));
  const auto two = version(engine, 2, times(engine.pool(), 2));
  ModelRoutes routes = routes_to({one, two});
  const auto shadow = engine.create_shadow(two, {.fraction_ppm = 500'000});
  routes.shadow = shadow;
  engine.set_routes("m", routes);
  Client client(engine);
  Inner inner(engine);
  for (int i = 0; i < 6; ++i) {
    ask(engine, client);
    inner.results.clear();
    inner.ask(1, predict(1));
    REQUIRE(inner.collect(engine, 1));
    CHECK(shadow->stats().taken == static_cast<std::uint64_t>(i + 1));
  }
  REQUIRE(pump(engine, [&] { return shadow->stats().in_flight == 0; }));
  CHECK(shadow->stats().compared == 6);
  CHECK(shadow->stats().comparison.max_abs_error == 3);
  // Who names a version is not copied.
  auto named = choose(engine, "m", 1);
  REQUIRE(named);
  CHECK(named->target().shadow == nullptr);
  engine.remove_routes("m");
  shadow->close();
}

}  // namespace
}  // namespace servolley::engine
