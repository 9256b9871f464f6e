#include <doctest/doctest.h>

#include <thread>

#include "harness.h"

namespace servolley::engine {
namespace {

void route(Engine& engine, const std::shared_ptr<Servable>& servable) {
  ModelRoutes routes;
  routes.versions[servable->version()] = servable;
  routes.default_version = servable;
  engine.set_routes(servable->name(), routes);
}

// The loop is still inside run_inline() when the last answer lets close() go on: the thread
// sanitizer sees it if anything is taken away too soon.
TEST_CASE("closing while the loop answers the last inline batch") {
  for (int round = 0; round < 50; ++round) {
    Engine engine({});
    auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                          with(Execution::kInline));
    Client client(engine);
    client.send(infer_row(3));
    engine.remove_routes("m");
    std::jthread closer([&] { servable->close(); });
    Answer answer;
    REQUIRE(pump(engine, [&] { return client.read(answer); }));
    CHECK(first_value(answer) == 6.0F);
  }
}

TEST_CASE("a client that left before its inline batch ran, and a servable closed in between") {
  Engine engine({});
  auto servable = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                        with(Execution::kInline));
  Client client(engine);
  client.send(infer_row(3));
  client.hang_up();
  engine.remove_routes("m");
  servable->close();
  engine.tick();
  CHECK(engine.in_flight() == 0);
}

TEST_CASE("another servable over the same weights takes the place of the first") {
  Engine engine({});
  auto first = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                     with(Execution::kThreads));
  const std::weak_ptr<Runner> weights = first->runner();
  ServableOptions options = with(Execution::kInline);
  options.max_batch_size = 3;
  auto second = engine.create_servable("m", 1, first->runner(), options);
  REQUIRE(second);
  Client client(engine);
  client.send(infer_row(1));
  route(engine, *second);
  std::atomic<bool> closed{false};
  std::jthread closer([&] {
    first->close();
    closed = true;
  });
  client.send(infer_row(2));
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(first_value(answer) == 2.0F);
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(first_value(answer) == 4.0F);
  REQUIRE(pump(engine, [&] { return closed.load(); }));
  CHECK(first->runner() == nullptr);
  CHECK_FALSE(weights.expired());
  CHECK((*second)->max_batch_size() == 3);
  engine.remove_routes("m");
  (*second)->close();
  CHECK(weights.expired());
}

}  // namespace
}  // namespace servolley::engine
