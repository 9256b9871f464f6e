#include <doctest/doctest.h>

#include <optional>
#include <random>
#include <thread>

#include "allocations.h"
#include "lanes.h"

namespace servolley::engine {
namespace {

using testing::Shortage;

TEST_CASE("threads that launch and complete find no memory: everybody is answered all the same") {
  std::mt19937 random(7);  // NOLINT: a fixed seed is the point
  for (const unsigned n : {1U, 2U, 3U, 10U}) {
    CAPTURE(n);
    Engine engine(n == 2 ? looking(std::chrono::microseconds(300)) : EngineOptions{});
    FakeDevice first(engine.pool(), doubling(engine.pool()));
    FakeDevice second(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&first, &second}, with_lanes(2));
    auto clients = clients_of(engine, 12);
    const std::uint64_t refused = testing::refused_allocations();
    for (int round = 0; round < (n == 1 ? 3 : 40); ++round) {
      std::optional<Shortage> shortage(n);
      std::vector<float> values;
      for (auto& client : clients) {
        values.push_back(random() % 8 == 0 ? -1.0F : static_cast<float>(random() % 100));
        client->send(infer_row(values.back()));
      }
      if (round % 4 == 3) clients[0]->hang_up();
      // With no memory at all nothing goes on until there is some.
      if (n == 1) {
        engine.expire(Clock::now());
        CHECK(engine.in_flight() > 0);
        while (testing::refused_allocations() < refused + 20) std::this_thread::yield();
        shortage.reset();
      }
      for (std::size_t i = 0; i < clients.size(); ++i) {
        if (i == 0 && round % 4 == 3) continue;
        Answer answer;
        REQUIRE(pump(engine, [&] { return clients[i]->read(answer); }));
        if (answer.status == 200) {
          CHECK(values[i] >= 0);
          CHECK(first_value(answer) == 2 * values[i]);
        } else {
          CHECK(answer.status >= 500);
        }
      }
      REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
      if (round % 4 == 3) clients[0] = std::make_unique<Client>(engine);
    }
    CHECK(testing::refused_allocations() > refused);
    // No lane is lost.
    const auto before = first.await_launches(0).size() + second.await_launches(0).size();
    first.hold();
    second.hold();
    for (std::size_t i = 0; i < 4; ++i) {
      clients[i]->send(infer_row(5));
      REQUIRE(pump(engine, [&] {
        return first.await_launches(0).size() + second.await_launches(0).size() == before + i + 1;
      }));
    }
    first.release();
    second.release();
    for (std::size_t i = 0; i < 4; ++i) {
      Answer answer;
      REQUIRE(pump(engine, [&] { return clients[i]->read(answer); }));
      CHECK(first_value(answer) == 10.0F);
    }
    clients.clear();
    engine.remove_routes("m");
    servable->close();
    CHECK(engine.pool().stats().in_use_bytes == 0);
  }
}

TEST_CASE("a device fails while memory is short: nobody is left behind") {
  for (int round = 0; round < 30; ++round) {
    Engine engine(round % 2 ? looking(std::chrono::microseconds(300)) : EngineOptions{});
    FakeDevice device(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&device}, with_lanes(2));
    device.hold();
    auto clients = clients_of(engine, 8);
    for (auto& client : clients) client->send(infer_row(1));
    REQUIRE(device.await_launches(1).size() >= 1);
    const Shortage shortage(2);
    device.fail_for_good();
    for (auto& client : clients) {
      Answer answer;
      REQUIRE(pump(engine, [&] { return client->read(answer); }));
      CHECK(answer.status >= 500);
    }
    CHECK(engine.in_flight() == 0);
    engine.remove_routes("m");
    servable->close();
  }
}

}  // namespace
}  // namespace servolley::engine
