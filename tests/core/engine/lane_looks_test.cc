#include <doctest/doctest.h>

#include "lanes.h"
#include "predict_request.h"

namespace servolley::engine {
namespace {

// Whoever misses a call while he looks misses it for good.
constexpr Duration kForever = std::chrono::hours(1);
constexpr Duration kWindow = std::chrono::milliseconds(50);

Duration process_cpu() {
  timespec used{};
  REQUIRE(::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used) == 0);
  return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
}

// How much `used` grows while this thread does nothing for a window.
template <class Used>
Duration growth(const Used& used) {
  const Duration before = used();
  ::poll(nullptr, 0, static_cast<int>(kWindow / std::chrono::milliseconds(1)));
  return used() - before;
}

// Whether there is a window, of those in a few seconds, that is like that.
template <class Like>
bool some_window(const Like& like) {
  for (int i = 0; i < 100; ++i) {
    if (like()) return true;
  }
  return false;
}

float ask(Engine& engine, Client& client, float value) {
  Answer answer;
  client.send(infer_row(value));
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  REQUIRE(answer.status == 200);
  return first_value(answer);
}

}  // namespace

TEST_CASE("a look ends when it is there, or when its time is over") {
  int asked = 0;
  CHECK(look(kForever, [&] { return ++asked == 5; }));
  CHECK(asked == 5);
  CHECK_FALSE(look(std::chrono::milliseconds(1), [] { return false; }));
  CHECK(look(Duration::zero(), [] { return true; }));
  const TimePoint start = Clock::now();
  asked = 0;
  look(
      kForever, [&] { return ++asked == 3; }, std::chrono::milliseconds(2));
  CHECK(Clock::now() - start >= std::chrono::milliseconds(4));
}

TEST_CASE("threads that look notice requests, chores, and that it is time to go") {
  for (const int lanes : {1, 2}) {
    Engine engine(looking(kForever));
    FakeDevice device(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&device}, with_lanes(lanes));
    Client client(engine);
    for (int i = 0; i < 50; ++i) CHECK(ask(engine, client, 3) == 6.0F);
    CHECK(warm(*servable, predict_request(1, 1)).ok());
    CHECK(ask(engine, client, 4) == 8.0F);
    auto clients = clients_of(engine, 8);
    for (int round = 0; round < 20; ++round) {
      for (auto& each : clients) each->send(infer_row(1));
      for (auto& each : clients) {
        Answer answer;
        REQUIRE(pump(engine, [&] { return each->read(answer); }));
      }
    }
    engine.remove_routes("m");
    servable->close();
  }
}

TEST_CASE("threads that look notice that their device has failed, and still do their chores") {
  for (const bool by_a_request : {false, true}) {
    Engine engine(looking(kForever));
    FakeDevice device(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&device}, with_lanes(2));
    Client client(engine);
    CHECK(ask(engine, client, 3) == 6.0F);
    device.fail_for_good();
    if (by_a_request) {
      Answer answer;
      client.send(infer_row(1));
      REQUIRE(pump(engine, [&] { return client.read(answer); }));
      CHECK(answer.status == 503);
    }
    CHECK_FALSE(warm(*servable, predict_request(1, 1)).ok());
    CHECK(servable->broken());
  }
  // One of two: what waits goes to the other.
  Engine engine(looking(kForever));
  FakeDevice first(engine.pool(), doubling(engine.pool()));
  FakeDevice second(engine.pool(), doubling(engine.pool()));
  auto servable = serve_on(engine, {&first, &second}, with_lanes(1));
  Client client(engine);
  CHECK(ask(engine, client, 3) == 6.0F);
  first.fail_for_good();
  CHECK(ask(engine, client, 4) == 8.0F);
  CHECK(ask(engine, client, 5) == 10.0F);
}

TEST_CASE("a lone batch is looked for, until somebody else comes") {
  Engine engine(looking(kForever));
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  for (const int lanes : {1, 2}) {
    auto servable = serve_on(engine, {&device}, with_lanes(lanes));
    device.hold();
    auto clients = clients_of(engine, 3);
    const int looks = device.await_looks(0);
    const int waits = device.await_waits(0);
    clients[0]->send(infer_row(1));
    CHECK(device.await_looks(looks + 100) >= looks + 100);
    CHECK(device.await_waits(0) == waits);
    clients[1]->send(infer_row(2));
    CHECK(device.await_waits(waits + 1) == waits + 1);
    clients[2]->send(infer_row(3));
    device.release();
    for (auto& client : clients) {
      Answer answer;
      REQUIRE(pump(engine, [&] { return client->read(answer); }));
      CHECK(answer.status == 200);
    }
  }
}

TEST_CASE("nobody looks where processors are few, or where it is switched off") {
  EngineOptions off = looking(kForever);
  off.busy_poll_us = 0;
  for (const EngineOptions& options : {looking(kForever, 3), off}) {
    Engine engine(options);
    FakeDevice device(engine.pool(), doubling(engine.pool()));
    auto servable = serve_on(engine, {&device}, with_lanes(2));
    Client client(engine);
    for (int i = 0; i < 5; ++i) ask(engine, client, 1);
    CHECK(device.await_looks(0) == 0);
    CHECK(some_window([] { return growth(process_cpu) < kWindow / 5; }));
  }
}

TEST_CASE("the launching thread looks for the next request when a lone one has been answered") {
  Engine engine(looking(kForever));
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  // While its only lane is taken there is nothing that it could launch, and it sleeps.
  auto servable = serve_on(engine, {&device}, with_lanes(1));
  Client client(engine);
  const auto cpu = [&] { return device.launching_cpu(); };
  device.hold();
  client.send(infer_row(1));
  REQUIRE(device.await_launches(1).size() == 1);
  CHECK(some_window([&] { return growth(cpu) < kWindow / 5; }));
  device.release();
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(some_window([&] { return growth(cpu) > kWindow / 5; }));
}

TEST_CASE("a batch that waits for company is slept for") {
  Engine engine(looking(kForever));
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  ServableOptions options = with_lanes(2);
  options.max_batch_size = 2;
  options.max_queue_delay_us = 60'000'000;
  auto servable = serve_on(engine, {&device}, options);
  auto clients = clients_of(engine, 3);
  for (int i : {0, 1}) clients[static_cast<std::size_t>(i)]->send(infer_row(1));
  REQUIRE(device.await_launches(1).size() == 1);
  clients[2]->send(infer_row(1));
  CHECK(some_window([&] { return growth([&] { return device.launching_cpu(); }) < kWindow / 5; }));
  clients[2]->hang_up();
}

TEST_CASE("an idle server computes nothing") {
  EngineOptions options;
  options.processors = 64;
  Engine engine(options);
  FakeDevice first(engine.pool(), doubling(engine.pool()));
  FakeDevice second(engine.pool(), doubling(engine.pool()));
  auto servable = serve_on(engine, {&first, &second}, with_lanes(2));
  Client client(engine);
  for (int i = 0; i < 100; ++i) CHECK(ask(engine, client, 2) == 4.0F);
  CHECK(some_window([] { return growth(process_cpu) < kWindow / 10; }));
}

TEST_CASE("the loop looks for the answer to a client that keeps a device busy alone") {
  EngineOptions options;
  options.processors = 4;
  options.lane_looks.loop = std::chrono::seconds(5);
  for (const bool others : {false, true}) {
    for (const int processors : {4, 3}) {
      options.processors = processors;
      Engine engine(options);
      FakeDevice device(engine.pool(), doubling(engine.pool()));
      auto servable = serve_on(engine, {&device}, with_lanes(2));
      Client client(engine);
      Client other(engine);
      int at_once = 0;
      for (int i = 0; i < 40; ++i) {
        Client& asking = others && i % 4 == 3 ? other : client;
        asking.send(infer_row(static_cast<float>(i)));
        Answer answer;
        at_once += asking.read(answer);  // nobody has drained the completions
        REQUIRE(pump(engine, [&] { return !answer.body.empty() || asking.read(answer); }));
        CHECK(first_value(answer) == 2 * static_cast<float>(i));
      }
      CHECK(at_once == (others || processors < 4 ? 0 : 40 - 8));
      CHECK(engine.in_flight() == 0);
    }
  }
}

}  // namespace servolley::engine
