#include <doctest/doctest.h>

#include <thread>

#include "allocations.h"
#include "versions.h"

namespace servolley::engine {
namespace {

// From the bytes of a request to the bytes of its answer, through protocol, codec, queue, batch and
// pool.
TEST_CASE("a warm request never calls the allocator") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), with(Execution::kInline));
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 8; ++i) clients.push_back(std::make_unique<Client>(engine));
  const std::string request = infer_row(3);
  char sink[4096];
  const auto round = [&] {
    for (auto& client : clients) client->send(request);
    engine.tick();
    for (auto& client : clients) {
      REQUIRE(::recv(client->peer(), sink, sizeof sink, 0) > 0);
    }
  };
  for (int i = 0; i < 50; ++i) round();
  const std::uint64_t before = testing::allocations();
  for (int i = 0; i < 200; ++i) {
    for (auto& client : clients) client->send(request);
    engine.tick();
    for (auto& client : clients) (void)::recv(client->peer(), sink, sizeof sink, 0);
  }
  CHECK(testing::allocations() == before);
  CHECK(engine.front_stats().responses[200] == 250 * clients.size());
}

TEST_CASE("nor does one that is split and copied to a shadow") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto one = version(engine, 1, times(pool, 2));
  const auto two = version(engine, 2, times(pool, 3));
  const auto three = version(engine, 3, times(pool, 4));
  const auto shadow = engine.create_shadow(three, {});
  ModelRoutes routes = routes_to({one, two, three});
  routes.split = {one, two};
  routes.choice.add(2);
  routes.choice.add(1);
  routes.shadow = shadow;
  engine.set_routes("m", routes);
  Client client(engine);
  const std::string request = infer_row(3);
  char sink[4096];
  const auto round = [&] {
    client.send(request);
    engine.tick();
    (void)::recv(client.peer(), sink, sizeof sink, 0);
    while (shadow->stats().in_flight > 0) std::this_thread::yield();
  };
  for (int i = 0; i < 300; ++i) round();  // every place of the ring, several times
  const std::uint64_t before = testing::allocations();
  for (int i = 0; i < 300; ++i) round();
  CHECK(testing::allocations() == before);
  CHECK(shadow->stats().compared == 600);
  engine.remove_routes("m");
  shadow->close();
}

}  // namespace
}  // namespace servolley::engine
