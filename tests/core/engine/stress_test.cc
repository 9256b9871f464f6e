#include <doctest/doctest.h>

#include <random>

#include "harness.h"

namespace servolley::engine {
namespace {

// Clients come and go, requests are good, poisoned, late or for nobody, models run inline and on
// several threads. Afterwards everything that was asked and stayed was answered, and no byte is
// leased.
TEST_CASE("random traffic: answers out = requests in, and nothing is left") {
  std::mt19937 random(11);  // NOLINT: a fixed seed is the point
  for (int round = 0; round < 6; ++round) {
    Engine engine({});
    ServableOptions threads = with(Execution::kThreads);
    threads.instances = 2;
    threads.max_queue_size = 64;
    threads.max_queue_delay_us = round % 2 ? 100 : 0;
    auto a =
        serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), threads, "threads");
    auto b = serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()),
                   with(Execution::kInline), "inline");
    struct Live {
      std::unique_ptr<Client> client;
      std::vector<float> expected;  // first value of each answer; < 0: an error is due
    };
    std::vector<Live> live;
    std::uint64_t sent = 0;
    std::uint64_t answered = 0;
    std::uint64_t abandoned = 0;
    const auto read_all = [&] {
      for (Live& l : live) {
        Answer answer;
        while (l.client->read(answer)) {
          ++answered;
          REQUIRE_FALSE(l.expected.empty());
          const float want = l.expected.front();
          l.expected.erase(l.expected.begin());
          if (want < 0) {
            REQUIRE(answer.status >= 400);
          } else if (answer.status == 200) {
            REQUIRE(first_value(answer) == 2 * want);
          } else {
            REQUIRE(answer.status == 503);  // queue full or too late
          }
        }
      }
    };
    for (int step = 0; step < 600; ++step) {
      if (live.size() < 24) live.push_back({std::make_unique<Client>(engine), {}});
      Live& l = live[random() % live.size()];
      const auto kind = random() % 10;
      const std::string model = random() % 2 ? "threads" : "inline";
      const auto value = static_cast<float>(random() % 1000);
      if (l.expected.size() < 8) {
        ++sent;
        if (kind == 0) {
          l.client->send(infer_row(-1, model));
          l.expected.push_back(-1);
        } else if (kind == 1) {
          l.client->send(infer_row(value, "nobody"));
          l.expected.push_back(-1);
        } else if (kind == 2) {
          const std::string json =
              R"({"parameters":{"timeout":)" + std::to_string(1 + random() % 200) +
              R"(,"binary_data_output":true},"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],)"
              R"("data":[)" +
              std::to_string(static_cast<int>(value)) + ",1,2,3]}]}";
          l.client->send(post("/v2/models/" + model + "/infer", json));
          l.expected.push_back(value);
        } else {
          l.client->send(infer_row(value, model));
          l.expected.push_back(value);
        }
      }
      if (random() % 3 == 0) engine.tick();
      if (random() % 3 == 0) engine.drain_completions();
      if (random() % 8 == 0) engine.expire(Clock::now());
      if (random() % 25 == 0 && !live.empty()) {
        read_all();
        const std::size_t gone = random() % live.size();
        abandoned += live[gone].expected.size();
        live.erase(live.begin() + static_cast<std::ptrdiff_t>(gone));
      }
      read_all();
    }
    REQUIRE(pump(engine, [&] {
      read_all();
      return engine.in_flight() == 0;
    }));
    read_all();
    CHECK(answered + abandoned == sent);
    for (const Live& l : live) CHECK(l.expected.empty());
    live.clear();
    engine.remove_routes("threads");
    engine.remove_routes("inline");
    a->close();
    b->close();
    CHECK(engine.pool().stats().in_use_bytes == 0);
  }
}

}  // namespace
}  // namespace servolley::engine
