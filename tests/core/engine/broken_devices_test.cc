#include <doctest/doctest.h>

#include "lanes.h"

namespace servolley::engine {
namespace {

TEST_CASE("a device that fails answers everybody, and other models go on") {
  Engine engine({});
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  FakeDevice sound(engine.pool(), doubling(engine.pool()));
  auto servable = serve_on(engine, {&device}, with_lanes(2));
  auto other = serve_on(engine, {&sound}, with_lanes(2), "other");
  device.hold();
  auto clients = clients_of(engine, 6);
  for (std::size_t i = 0; i < clients.size(); ++i) {
    clients[i]->send(infer_row(1));
    if (i < 2) REQUIRE(device.await_launches(i + 1).size() == i + 1);
  }
  CHECK_FALSE(servable->broken());
  device.fail_for_good();
  for (std::size_t i = 0; i < clients.size(); ++i) {
    Answer answer;
    REQUIRE(pump(engine, [&] { return clients[i]->read(answer); }));
    CHECK(answer.status == (i < 2 ? 500 : 503));
  }
  CHECK(servable->broken());
  CHECK(servable->waiting() == 0);
  Answer answer;
  clients[0]->send(infer_row(1));
  REQUIRE(pump(engine, [&] { return clients[0]->read(answer); }));
  CHECK(answer.status == 503);
  CHECK(answer.body.find("failed") != std::string::npos);
  clients[1]->send(infer_row(4, "other"));
  REQUIRE(pump(engine, [&] { return clients[1]->read(answer); }));
  CHECK(first_value(answer) == 8.0F);
  CHECK_FALSE(other->broken());
  CHECK(engine.in_flight() == 0);
  engine.remove_routes("m");
  servable->close();
  CHECK(servable->broken());
}

TEST_CASE("a batch whose launch finds the device broken is not halved and asked for again") {
  Engine engine({});
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  auto servable = serve_on(engine, {&device}, with_lanes(1));
  device.hold();
  auto clients = clients_of(engine, 5);
  clients[0]->send(infer_row(1));
  REQUIRE(device.await_launches(1).size() == 1);
  for (std::size_t i = 1; i < clients.size(); ++i) clients[i]->send(infer_row(1));
  device.fail_for_good();
  for (auto& client : clients) {
    Answer answer;
    REQUIRE(pump(engine, [&] { return client->read(answer); }));
    CHECK(answer.status >= 500);
  }
  CHECK(device.await_launches(1).size() == 1);
  CHECK(servable->broken());
}

TEST_CASE("of two devices one may fail: the other goes on, also with what waited") {
  Engine engine({});
  FakeDevice first(engine.pool(), doubling(engine.pool()));
  FakeDevice second(engine.pool(), doubling(engine.pool()));
  auto servable = serve_on(engine, {&first, &second}, with_lanes(1));
  first.hold();
  second.hold();
  auto clients = clients_of(engine, 5);
  clients[0]->send(infer_row(1));
  REQUIRE(first.await_launches(1).size() == 1);
  clients[1]->send(infer_row(1));
  REQUIRE(second.await_launches(1).size() == 1);
  for (std::size_t i = 2; i < clients.size(); ++i) clients[i]->send(infer_row(1));
  first.fail_for_good();
  Answer answer;
  REQUIRE(pump(engine, [&] { return clients[0]->read(answer); }));
  CHECK(answer.status == 500);
  CHECK_FALSE(servable->broken());
  second.release();
  for (std::size_t i = 1; i < clients.size(); ++i) {
    REQUIRE(pump(engine, [&] { return clients[i]->read(answer); }));
    CHECK(answer.status == 200);
  }
  CHECK(first.await_launches(1).size() == 1);
  second.fail_for_good();
  clients[0]->send(infer_row(1));
  REQUIRE(pump(engine, [&] { return clients[0]->read(answer); }));
  CHECK(answer.status == 503);
  CHECK(servable->broken());
}

TEST_CASE("a device that another model has broken is seen without a request") {
  Engine engine({});
  FakeDevice shared(engine.pool(), doubling(engine.pool()));
  FakeDevice sound(engine.pool(), doubling(engine.pool()));
  auto busy = serve_on(engine, {&shared}, with_lanes(1), "busy");
  auto idle = serve_on(engine, {&shared}, with_lanes(1), "idle");
  auto both = serve_on(engine, {&shared, &sound}, with_lanes(1), "both");
  shared.hold();
  Client client(engine);
  client.send(infer_row(1, "busy"));
  REQUIRE(shared.await_launches(1).size() == 1);
  CHECK_FALSE(idle->broken());
  shared.fail_for_good();
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 500);
  CHECK(busy->broken());
  CHECK(idle->broken());
  CHECK_FALSE(both->broken());
  client.send(infer_row(1, "idle"));
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 503);
  // Nobody is sent to it while another works.
  for (int i = 0; i < 3; ++i) {
    client.send(infer_row(5, "both"));
    REQUIRE(pump(engine, [&] { return client.read(answer); }));
    CHECK(first_value(answer) == 10.0F);
  }
  CHECK(shared.await_launches(1).size() == 1);
  // Both fail while a request waits for company: it is not forgotten.
  ServableOptions patient = with_lanes(1);
  patient.max_batch_size = 4;
  patient.max_queue_delay_us = 100'000;
  FakeDevice one(engine.pool(), doubling(engine.pool()));
  FakeDevice other(engine.pool(), doubling(engine.pool()));
  auto waiting = serve_on(engine, {&one, &other}, patient, "waiting");
  client.send(infer_row(5, "waiting"));
  one.fail_for_good();
  other.fail_for_good();
  CHECK(waiting->broken());
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 503);
  for (const auto& servable : {busy, idle, both, waiting}) {
    engine.remove_routes(servable->name());
    const bool broken = servable->broken();
    servable->close();
    CHECK(servable->broken() == broken);
  }
}

}  // namespace
}  // namespace servolley::engine
