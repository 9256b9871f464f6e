#include "lanes.h"

#include <doctest/doctest.h>

#include <random>
#include <thread>

namespace servolley::engine {
namespace {

using Rows = std::vector<std::int64_t>;

TEST_CASE("with two lanes a batch is launched while another computes; the rest gathers") {
  for (const int lanes : {1, 2, 3}) {
    Engine engine({});
    FakeDevice device(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&device}, with_lanes(lanes));
    CHECK_FALSE(servable->runs_inline());
    CHECK(servable->devices().size() == 1);
    device.hold();
    const auto under_way = static_cast<std::size_t>(lanes);
    auto clients = clients_of(engine, lanes + 4);
    for (std::size_t i = 0; i < under_way; ++i) {
      clients[i]->send(infer_row(static_cast<float>(i)));
      REQUIRE(device.await_launches(i + 1).size() == i + 1);
    }
    for (std::size_t i = under_way; i < clients.size(); ++i) {
      clients[i]->send(infer_row(static_cast<float>(i)));
    }
    CHECK(servable->waiting() == 4);
    CHECK(device.await_launches(under_way) == Rows(under_way, 1));
    device.release();
    for (std::size_t i = 0; i < clients.size(); ++i) {
      Answer answer;
      REQUIRE(pump(engine, [&] { return clients[i]->read(answer); }));
      CHECK(answer.status == 200);
      CHECK(first_value(answer) == 2 * static_cast<float>(i));
    }
    Rows launches(under_way, 1);
    launches.push_back(4);
    CHECK(device.await_launches(under_way + 1) == launches);
    CHECK(device.most_under_way() == under_way);
    CHECK(servable->stats().executions == under_way + 1);
    engine.remove_routes("m");
    servable->close();
    CHECK(engine.pool().stats().in_use_bytes == 0);
  }
}

TEST_CASE("instances multiply the lanes") {
  Engine engine({});
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  ServableOptions options = with_lanes(2);
  options.instances = 2;
  auto servable = serve_on(engine, {&device}, options);
  CHECK(servable->instances() == 2);
  device.hold();
  auto clients = clients_of(engine, 4);
  for (std::size_t i = 0; i < 4; ++i) {
    clients[i]->send(infer_row(1));
    CHECK(device.await_launches(i + 1).size() == i + 1);
  }
  device.release();
  for (auto& client : clients) {
    Answer answer;
    REQUIRE(pump(engine, [&] { return client->read(answer); }));
  }
}

TEST_CASE("one bad request fails alone, whether its launch fails or its run") {
  for (const bool at_launch : {false, true}) {
    Engine engine({});
    FakeDevice device(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&device}, with_lanes(1));
    device.hold();
    auto clients = clients_of(engine, 6);
    clients[0]->send(infer_row(0));
    REQUIRE(device.await_launches(1).size() == 1);
    for (std::size_t i = 1; i < clients.size(); ++i) {
      clients[i]->send(infer_row(i == 4 ? -1.0F : static_cast<float>(i)));
    }
    if (at_launch) device.refuse_launches(internal_error("no"));
    device.release();
    for (std::size_t i = 0; i < clients.size(); ++i) {
      Answer answer;
      REQUIRE(pump(engine, [&] { return clients[i]->read(answer); }));
      if (at_launch ? i > 0 : i == 4) {
        CHECK(answer.status == 500);
      } else {
        CHECK(first_value(answer) == 2 * static_cast<float>(i));
      }
    }
    CHECK_FALSE(servable->broken());
    const auto launches = device.await_launches(at_launch ? 1 : 2);
    if (!at_launch) CHECK(launches[1] == 5);  // the batch that was halved
    CHECK(engine.in_flight() == 0);
  }
}

TEST_CASE("what a runtime throws is an error for that batch only") {
  Engine engine({});
  int runs = 0;
  FakeDevice device(engine.pool(), [&](auto inputs, auto, auto outputs) {
    if (runs++ == 0) throw std::runtime_error("boom");
    return copy_through(engine.pool(), inputs, outputs);
  });
  auto servable = serve_on(engine, {&device}, with_lanes(2));
  Client client(engine);
  Answer answer;
  client.send(infer_row(1));
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 500);
  client.send(infer_row(7));
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(first_value(answer) == 7.0F);
}

TEST_CASE("the device with the least to do takes the next batch") {
  Engine engine({});
  FakeDevice first(engine.pool(), doubling(engine.pool()));
  FakeDevice second(engine.pool(), doubling(engine.pool()));
  auto servable = serve_on(engine, {&first, &second}, with_lanes(2));
  CHECK(servable->devices().size() == 2);
  first.hold();
  second.hold();
  auto clients = clients_of(engine, 4);
  const auto send = [&](std::size_t client, int rows) {
    clients[client]->send(infer_row(1, "m", rows));
  };
  send(0, 8);
  CHECK(first.await_launches(1) == Rows{8});
  send(1, 3);
  CHECK(second.await_launches(1) == Rows{3});
  send(2, 2);
  CHECK(second.await_launches(2) == Rows{3, 2});
  send(3, 1);  // the second has no lane left
  CHECK(first.await_launches(2) == Rows{8, 1});
  first.release();
  second.release();
  for (auto& client : clients) {
    Answer answer;
    REQUIRE(pump(engine, [&] { return client->read(answer); }));
    CHECK(answer.status == 200);
  }
}

TEST_CASE("deadlines, and clients that leave, while every lane is taken") {
  Engine engine({});
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  auto servable = serve_on(engine, {&device}, with_lanes(1));
  device.hold();
  Client launched(engine);
  launched.send(infer_row(1));
  REQUIRE(device.await_launches(1).size() == 1);
  Client late(engine);
  const std::string json =
      R"({"parameters":{"timeout":200},"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],)"
      R"("data":[1,1,2,3]}]})";
  late.send(post("/v2/models/m/infer", json));
  Client gone(engine);
  gone.send(infer_row(1));
  CHECK(servable->waiting() == 2);
  gone.hang_up();
  launched.hang_up();
  CHECK(servable->waiting() == 1);
  Answer answer;
  REQUIRE(pump(engine, [&] { return late.read(answer); }));
  CHECK(answer.status == 503);
  CHECK(device.await_launches(1).size() == 1);
  device.release();
  REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
  CHECK(engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("a batch waits for company as long as it may, on devices, too") {
  Engine engine({});
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  ServableOptions options = with_lanes(2);
  options.max_batch_size = 4;
  options.max_queue_delay_us = 10'000'000;
  auto servable = serve_on(engine, {&device}, options);
  auto clients = clients_of(engine, 4);
  for (auto& client : clients) client->send(infer_row(1));
  for (auto& client : clients) {
    Answer answer;
    REQUIRE(pump(engine, [&] { return client->read(answer); }));
    CHECK(answer.status == 200);
  }
  CHECK(device.await_launches(1) == Rows{4});
}

TEST_CASE("closing while batches are under way answers them first") {
  for (int round = 0; round < 20; ++round) {
    Engine engine(round % 2 ? looking(std::chrono::hours(1)) : EngineOptions{});
    FakeDevice device(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&device}, with_lanes(2));
    device.hold();
    auto clients = clients_of(engine, 5);
    for (auto& client : clients) client->send(infer_row(3));
    engine.remove_routes("m");
    std::jthread closer([&] { servable->close(); });
    device.release();
    for (auto& client : clients) {
      Answer answer;
      REQUIRE(pump(engine, [&] { return client->read(answer); }));
      CHECK(first_value(answer) == 6.0F);
    }
  }
}

TEST_CASE("random traffic on two devices: answers out = requests in, and nothing is left") {
  std::mt19937 random(23);  // NOLINT: a fixed seed is the point
  for (int round = 0; round < 8; ++round) {
    Engine engine(round < 4 ? EngineOptions{} : looking(std::chrono::microseconds(300)));
    FakeDevice first(engine.pool(), doubling(engine.pool()));
    FakeDevice second(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&first, &second}, with_lanes(2));
    struct Live {
      std::unique_ptr<Client> client;
      std::vector<float> expected;  // first value of each answer; < 0: an error is due
    };
    std::vector<Live> live(16);
    for (Live& l : live) l.client = std::make_unique<Client>(engine);
    std::uint64_t sent = 0;
    std::uint64_t settled = 0;  // answered, or abandoned
    const auto read_all = [&] {
      for (Live& l : live) {
        Answer answer;
        while (l.client->read(answer)) {
          ++settled;
          REQUIRE_FALSE(l.expected.empty());
          const float want = l.expected.front();
          l.expected.erase(l.expected.begin());
          if (want < 0 || answer.status != 200) {
            REQUIRE(answer.status >= 500);
            REQUIRE((want < 0 || first.broken()));
          } else {
            REQUIRE(first_value(answer) == 2 * want);
          }
        }
      }
    };
    for (int step = 0; step < 1500; ++step) {
      Live& l = live[random() % live.size()];
      if (l.expected.size() < 8) {
        const bool poisoned = random() % 20 == 0;
        const float value = poisoned ? -1.0F : static_cast<float>(random() % 1000);
        l.client->send(infer_row(value));
        l.expected.push_back(value);
        ++sent;
      }
      if (random() % 3 == 0) engine.drain_completions();
      if (random() % 200 == 0) {
        read_all();
        settled += l.expected.size();
        l = {std::make_unique<Client>(engine), {}};
      }
      if (round % 2 == 1 && step == 700) first.fail_for_good();
      read_all();
    }
    REQUIRE(pump(engine, [&] { return engine.in_flight() == 0; }));
    read_all();
    CHECK(settled == sent);
    CHECK_FALSE(servable->broken());
    live.clear();
    engine.remove_routes("m");
    servable->close();
    CHECK(engine.pool().stats().in_use_bytes == 0);
  }
}

}  // namespace
}  // namespace servolley::engine
