#include "versions.h"

namespace servolley::engine {
namespace {

ModelRoutes split(const std::vector<std::shared_ptr<Servable>>& servables,
                  const std::vector<std::uint32_t>& weights) {
  ModelRoutes routes = routes_to(servables);
  routes.split = servables;
  for (const std::uint32_t weight : weights) routes.choice.add(weight);
  return routes;
}

TEST_CASE("requests without a version are spread by weight, exactly") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto one = version(engine, 1, times(pool, 1));
  const auto two = version(engine, 2, times(pool, 2));
  engine.set_routes("m", split({one, two}, {9, 1}));
  Client client(engine);
  std::map<float, int> answers;
  for (int i = 0; i < 100; ++i) ++answers[ask(engine, client)];
  CHECK(answers == std::map<float, int>{{1.0F, 90}, {2.0F, 10}});
  CHECK(one->stats().success_count == 90);
  CHECK(two->stats().success_count == 10);
}

TEST_CASE("who names a version or a label gets it") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto one = version(engine, 1, times(pool, 1));
  const auto two = version(engine, 2, times(pool, 2));
  ModelRoutes routes = split({one, two}, {1, 1});
  routes.labels["old"] = 1;
  engine.set_routes("m", routes);
  Client client(engine);
  const auto with_label = post("/v1/models/m/labels/old:predict", R"({"instances":[[1,2,3,4]]})");
  for (int i = 0; i < 4; ++i) {
    CHECK(ask(engine, client, infer_row(1, "m/versions/2")) == 2.0F);
    client.send(with_label);
    Answer answer;
    REQUIRE(pump(engine, [&] { return client.read(answer); }));
    CHECK(answer.status == 200);
  }
  CHECK(one->stats().success_count == 4);
  CHECK(two->stats().success_count == 4);
}

TEST_CASE("both protocols' calls and calls from inside share one split") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto one = version(engine, 1, times(pool, 1));
  const auto two = version(engine, 2, times(pool, 2));
  engine.set_routes("m", split({one, two}, {1, 1}));
  Client client(engine);
  const auto predict = post("/v1/models/m:predict", R"({"instances":[[1,2,3,4]]})");
  std::vector<std::int64_t> chosen;
  std::map<std::int64_t, int> leased;
  for (int i = 0; i < 6; ++i) {
    if (i % 3 == 0) {
      ask(engine, client);
    } else if (i % 3 == 1) {
      client.send(predict);
      Answer answer;
      REQUIRE(pump(engine, [&] { return client.read(answer); }));
    } else {
      HotRoute route;
      route.model = "m";
      const auto lease = engine.choose(route);
      REQUIRE(lease);
      ++leased[lease->target().servable->version()];
    }
    chosen.push_back(
        static_cast<std::int64_t>(one->stats().success_count * 10 + two->stats().success_count));
  }
  CHECK(chosen == std::vector<std::int64_t>{10, 11, 11, 12, 22, 22});
  CHECK(leased == std::map<std::int64_t, int>{{1, 1}, {2, 1}});
}

TEST_CASE("a small share gets its turn however often the routes are set") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto one = version(engine, 1, times(pool, 1));
  const auto two = version(engine, 2, times(pool, 2));
  const auto other = version(engine, 3, times(pool, 3));
  Client client(engine);
  std::map<float, int> answers;
  for (int i = 0; i < 100; ++i) {
    ModelRoutes routes = split({one, two}, {9, 1});
    if (i % 2) routes.versions[3] = other;
    engine.set_routes("m", routes);
    ++answers[ask(engine, client)];
  }
  CHECK(answers == std::map<float, int>{{1.0F, 90}, {2.0F, 10}});
  // Other weights begin anew.
  answers.clear();
  for (int i = 0; i < 10; ++i) {
    engine.set_routes("m", split({one, two}, {static_cast<std::uint32_t>(10 + i), 9}));
    ++answers[ask(engine, client)];
  }
  CHECK(answers == std::map<float, int>{{1.0F, 10}});
}

TEST_CASE("a request that was begun before the split changed is answered by whom it was given") {
  Engine engine({});
  Pool& pool = engine.pool();
  const auto one = version(engine, 1, times(pool, 1));
  const auto two = version(engine, 2, times(pool, 2));
  engine.set_routes("m", split({one, two}, {1, 1}));
  Client client(engine);
  client.send(infer_row(1) + infer_row(1));
  engine.set_routes("m", split({one, two}, {1, 0}));
  for (int i = 0; i < 4; ++i) client.send(infer_row(1));
  engine.tick();
  std::vector<float> answers;
  Answer answer;
  while (client.read(answer)) answers.push_back(first_value(answer));
  CHECK(answers == std::vector<float>{1, 2, 1, 1, 1, 1});
}

TEST_CASE("answers with NaN are counted request by request, where that is watched") {
  Engine engine({});
  const auto one = version(engine, 1, times(engine.pool(), 1));
  engine.set_routes("m", routes_to({one}));
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 6; ++i) clients.push_back(std::make_unique<Client>(engine));
  const auto send_all = [&] {
    for (std::size_t i = 0; i < clients.size(); ++i) {
      clients[i]->send(infer_row(i % 3 == 1 ? std::numeric_limits<float>::quiet_NaN() : 1));
    }
    engine.tick();
    Answer answer;
    for (auto& client : clients) REQUIRE(client->read(answer));
  };
  send_all();
  CHECK(one->stats().nonfinite == 0);
  one->watch_outputs(true);
  send_all();
  CHECK(one->stats().nonfinite == 2);
  CHECK(one->stats().executions == 2);
  one->watch_outputs(false);
  send_all();
  CHECK(one->stats().nonfinite == 2);
}

}  // namespace
}  // namespace servolley::engine
