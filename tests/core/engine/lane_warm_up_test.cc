#include <doctest/doctest.h>

#include "lanes.h"
#include "predict_request.h"

namespace servolley::engine {
namespace {

using Rows = std::vector<std::int64_t>;

Result<std::shared_ptr<Servable>> create(Engine& engine, Signature signature,
                                         std::vector<FakeDevice*> devices,
                                         const ServableOptions& options,
                                         GraphUse graphs = GraphUse::kOff) {
  return engine.create_servable(
      "m", 1, std::make_shared<LaunchingRunner>(std::move(signature), std::move(devices), graphs),
      options);
}

ServableOptions with_warm_up(int lanes, int max_batch_size) {
  ServableOptions options = with_lanes(lanes);
  options.warmup = true;
  options.filling = Filling::kOff;  // which is measured otherwise
  options.max_batch_size = max_batch_size;
  return options;
}

TEST_CASE("every lane is warmed up with every size before it serves") {
  Engine engine({});
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  ServableOptions options = with_warm_up(2, 6);
  serve_on(engine, {&device}, options);
  CHECK(device.await_launches(10) == Rows{1, 1, 1, 1, 6, 6, 4, 4, 2, 2});

  FakeDevice preferring(engine.pool(), doubling(engine.pool()));
  options.preferred_batch_sizes = {3, 6};
  options.warmup_rows = {5, 1000};
  serve_on(engine, {&preferring}, options, "preferring");
  CHECK(preferring.await_launches(10) == Rows{1, 1, 1, 1, 6, 6, 5, 5, 3, 3});

  // Sizes for graphs come on top; one above the limit is none.
  FakeDevice recording(engine.pool(), doubling(engine.pool()));
  options.graph_rows = {8, 2};
  serve_on(engine, {&recording}, options, "recording");
  CHECK(recording.await_launches(12) == Rows{1, 1, 1, 1, 6, 6, 5, 5, 3, 3, 2, 2});

  // A device that is broken by then is found when the model is loaded.
  FakeDevice broken(engine.pool(), doubling(engine.pool()));
  broken.fail_for_good();
  auto runner = std::make_shared<LaunchingRunner>(unary_signature(DType::kFp32),
                                                  std::vector<FakeDevice*>{&broken});
  const auto refused = engine.create_servable("broken", 1, runner, options);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().message().find("illegal memory access") != std::string::npos);
  options.execution = Execution::kInline;
  const auto inline_refused = engine.create_servable("inline", 1, runner, options);
  REQUIRE_FALSE(inline_refused);
  CHECK(inline_refused.error().code() == Code::kInvalidArgument);
}

TEST_CASE("whether batches are filled up is measured, unless somebody has said so") {
  using namespace std::chrono_literals;
  for (const bool dear : {false, true}) {
    CAPTURE(dear);
    Engine engine({});
    FakeDevice device(engine.pool(), doubling(engine.pool()));
    device.change_costs(dear ? 20ms : 0ms);
    ServableOptions options = with_warm_up(2, 4);
    options.filling = Filling::kAuto;
    serve_on(engine, {&device}, options);
    CHECK(device.await_launches(16) == Rows{1, 1, 1, 1, 4, 4, 2, 2, 3, 2, 2, 2, 3, 2, 3, 2});
    CHECK(device.filled_up() == dear);
  }
  for (const auto filling : {Filling::kOff, Filling::kOn}) {
    for (const bool warmup : {false, true}) {
      Engine engine({});
      FakeDevice device(engine.pool(), doubling(engine.pool()));
      device.change_costs(20ms);
      ServableOptions options = with_warm_up(1, 4);
      options.filling = filling;
      options.warmup = warmup;
      serve_on(engine, {&device}, options);
      CHECK(device.await_launches(0).size() == (warmup ? 4 : 0));
      CHECK(device.filled_up() == (filling == Filling::kOn));
    }
  }
  // Without sizes that change there is nothing to measure.
  Engine engine({});
  FakeDevice device(engine.pool(), doubling(engine.pool()));
  ServableOptions options = with_warm_up(1, 2);
  options.filling = Filling::kAuto;
  serve_on(engine, {&device}, options);
  CHECK(device.await_launches(3) == Rows{1, 1, 2});
}

TEST_CASE("a load is refused however early the device's thread sees that the device is broken") {
  Engine engine({});
  for (int i = 0; i < 400; ++i) {
    FakeDevice broken(engine.pool(), doubling(engine.pool()));
    broken.fail_for_good();
    REQUIRE_FALSE(create(engine, unary_signature(DType::kFp32), {&broken}, with_warm_up(2, 6)));
  }
}

TEST_CASE("sizes for which there is no memory, or no time, are left out of the warm-up") {
  EngineOptions small;
  small.pool_bytes = 4096;
  {
    Engine engine(small);  // a row has 16 bytes: 1024 and 512 rows are too many, 128 are not
    FakeDevice device(engine.pool(), [](auto, auto, auto) { return Status(); });
    REQUIRE(create(engine, unary_signature(DType::kFp32), {&device}, with_warm_up(1, 1024)));
    CHECK(device.await_launches(9) == Rows{1, 1, 256, 128, 64, 32, 16, 8, 4, 2});
  }
  Engine engine({});
  FakeDevice slow(engine.pool(), [](auto, auto, auto) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return Status();
  });
  REQUIRE(create(engine, unary_signature(DType::kFp32), {&slow}, with_warm_up(1, 1024)));
  const Rows launched = slow.await_launches(2);
  CHECK(*std::max_element(launched.begin(), launched.end()) <= 128);  // three seconds' worth
  CHECK(std::count(launched.begin(), launched.end(), 2) == 1);
  // One size is refused: the others are warmed up all the same.
  FakeDevice full(engine.pool(), doubling(engine.pool()));
  full.refuse_next(1, {Code::kResourceExhausted, "no memory"});
  const auto servable =
      create(engine, unary_signature(DType::kFp32), {&full}, with_warm_up(1, 1024));
  CHECK(servable.has_value());
}

TEST_CASE("declared requests run in every lane of every device, where batches are launched") {
  Engine engine({});
  FakeDevice first(engine.pool(), doubling(engine.pool()));
  FakeDevice second(engine.pool(), doubling(engine.pool()));
  auto servable = serve_on(engine, {&first, &second}, with_lanes(2));
  REQUIRE(warm(*servable, predict_request(7, 3), 2).ok());
  for (FakeDevice* device : {&first, &second}) {
    CHECK(device->await_launches(4) == Rows{3, 3, 3, 3});
    CHECK(device->captures() == std::vector<bool>(4, true));
  }
  CHECK(engine.pool().stats().in_use_bytes == 0);
  // The same threads launch what clients send.
  Client client(engine);
  client.send(infer_row(3));
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(first_value(answer) == 6.0F);
  CHECK(first.launching_threads() == 1);

  CHECK(warm(*servable, predict_request(-1, 1), 5).message().find("poisoned") != std::string::npos);
  CHECK(first.await_launches(6).size() == 6);  // not tried again
  CHECK(warm(*servable, predict_request(1, 1, "nobody")).code() == Code::kInvalidArgument);
  second.refuse_next(1, {Code::kResourceExhausted, "no memory"});
  CHECK(warm(*servable, predict_request(1, 1)).code() == Code::kResourceExhausted);
  client.send(infer_row(3));
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 200);
  engine.remove_routes("m");
  servable->close();
  CHECK(warm(*servable, predict_request(1, 1)).code() == Code::kUnavailable);
}

TEST_CASE("zeros may be captured if no dimension is guessed; what is declared, for every size") {
  Engine engine({});
  for (const GraphUse graphs : {GraphUse::kOff, GraphUse::kRefused, GraphUse::kNotYet}) {
    CAPTURE(static_cast<int>(graphs));
    FakeDevice fixed(engine.pool(), doubling(engine.pool()));
    auto servable =
        create(engine, unary_signature(DType::kFp32), {&fixed}, with_warm_up(1, 4), graphs);
    REQUIRE(servable);
    CHECK(fixed.await_launches(4) == Rows{1, 1, 4, 2});
    CHECK(fixed.captures() == std::vector<bool>(4, true));
    REQUIRE(warm(**servable, predict_request(7, 2)).ok());
    CHECK(fixed.await_launches(5) == Rows{1, 1, 4, 2, 2});

    FakeDevice free(engine.pool(), doubling(engine.pool()));
    servable = create(engine, unary_signature(DType::kFp32, {-1, -1}), {&free}, with_warm_up(1, 4),
                      graphs);
    REQUIRE(servable);
    CHECK(free.captures() == std::vector<bool>(4, false));
    REQUIRE(warm(**servable, predict_request(7, 2)).ok());
    const Rows sizes =
        graphs == GraphUse::kNotYet ? Rows{1, 1, 4, 2, 2, 1, 4} : Rows{1, 1, 4, 2, 2};
    CHECK(free.await_launches(sizes.size()) == sizes);
    auto captures = free.captures();
    captures.erase(captures.begin(), captures.begin() + 4);
    CHECK(captures == std::vector<bool>(sizes.size() - 4, true));
  }
}

}  // namespace
}  // namespace servolley::engine
