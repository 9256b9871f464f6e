// A shadow fed by hand, as fast as a thread can: one thread writes, one reads, one closes.

#include <thread>

#include "engine/completion_queue.h"
#include "engine/shadow.h"
#include "versions.h"

namespace servolley::engine {
namespace {

// Requests that have been answered, without clients.
struct Answered {
  explicit Answered(Pool& of) : pool(of) {}

  void offer(Shadow& shadow, const std::shared_ptr<Servable>& primary, float value) {
    Request request;
    request.servable = primary;
    auto body = pool.allocate(16);
    auto answer = pool.allocate(16);
    REQUIRE(body);
    REQUIRE(answer);
    for (int i = 0; i < 4; ++i) {
      reinterpret_cast<float*>(body->data())[i] = value;
      reinterpret_cast<float*>(answer->data())[i] = 2 * value;
    }
    request.body = std::move(*body);
    request.infer.inputs.push_back({{DType::kFp32, {1, 4}, request.body.data(), 16}, {}});
    const codec::OutputView output{{DType::kFp32, {1, 4}, answer->data(), 16}, &*answer};
    shadow.take(request, {&output, 1});
  }

  Pool& pool;
};

TEST_CASE("a thread that offers, one that compares, one that closes: nothing is lost or kept") {
  Pool pool(cpu_device(), {});
  BatchPool batches;
  CompletionQueue completions;
  const auto servable = [&](float factor) {
    auto runner = std::make_shared<FakeRunner>(unary_signature(DType::kFp32), times(pool, factor));
    auto made = Servable::create("m", 1, runner, with(Execution::kInline),
                                 {.pool = pool, .batches = batches, .completions = completions});
    REQUIRE(made);
    return *made;
  };
  const auto primary = servable(2);
  const auto other = servable(2);
  std::uint64_t compared = 0;
  for (std::uint32_t round = 0; round < 60; ++round) {
    ShadowOptions options;
    options.max_in_flight = 1 + round % 9;  // among them what is no power of two
    options.max_bytes = round % 5 == 0 ? 1024 : options.max_bytes;
    Shadow shadow(other, options, pool);
    Answered answered(pool);
    for (int i = 0; i < 500; ++i) {
      answered.offer(shadow, primary, static_cast<float>(i));
      if (i % 16 == 0) std::this_thread::yield();
    }
    shadow.retire();
    std::jthread closer([&] { shadow.close(); });
    for (int i = 0; i < 50; ++i) answered.offer(shadow, primary, 1);
    closer.join();
    const ShadowStats stats = shadow.stats();
    CHECK(stats.taken + stats.dropped == 500);
    CHECK(stats.taken > 0);
    CHECK(stats.compared <= stats.taken);
    CHECK(stats.rows == stats.compared);
    CHECK(stats.comparison.max_abs_error == 0);
    CHECK(stats.failed + stats.incompatible + stats.in_flight == 0);
    compared += stats.compared;
    CHECK(pool.stats().in_use_bytes == 0);
  }
  CHECK(compared > 0);
  primary->close();
  other->close();
}

}  // namespace
}  // namespace servolley::engine
