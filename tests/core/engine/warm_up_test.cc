#include <doctest/doctest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>
#include <vector>

#include "predict_request.h"

namespace servolley::engine {
namespace {

int niceness_of(int thread) { return ::getpriority(PRIO_PROCESS, static_cast<::id_t>(thread)); }

// Remembers of every run its rows, its first value and the niceness of its thread.
struct Log {
  std::mutex mutex;
  std::vector<std::int64_t> rows;
  std::vector<float> values;
  std::vector<int> nicenesses;

  Body body(Pool& pool) {
    return [this, &pool](std::span<const TensorView> inputs, std::int64_t count,
                         std::span<OutputTensor> outputs) {
      const std::lock_guard lock(mutex);
      rows.push_back(count);
      if (inputs[0].bytes) {
        float value = 0;
        std::memcpy(&value, inputs[0].data, sizeof value);
        values.push_back(value);
        CHECK(reinterpret_cast<std::uintptr_t>(inputs[0].data) % alignof(float) == 0);
        if (value == -1.0F) return internal_error("poisoned row");
      }
      nicenesses.push_back(niceness_of(::gettid()));
      return copy_through(pool, inputs, outputs);
    };
  }
};

TEST_CASE("every size that matters is run once, ascending, after the single rows") {
  Engine engine({});
  Log log;
  ServableOptions options = with(Execution::kThreads, /*warmup=*/true);
  options.max_batch_size = 16;
  options.preferred_batch_sizes = {4, 8};
  options.warmup_rows = {2, 8, 1000};
  const auto servable =
      serve(engine, unary_signature(DType::kFp32), log.body(engine.pool()), options);
  const std::vector<std::int64_t> expected = {1, 1, 1, 1, 1, 1, 1, 2, 4, 8, 16};
  CHECK(log.rows == expected);
  CHECK(engine.in_flight() == 0);
  servable->close();
}

// Notes of every run whether it was a rehearsal.
class RehearsedRunner final : public Runner {
 public:
  RehearsedRunner(Pool& pool, std::vector<bool>& runs) : pool_(pool), runs_(runs) {}
  const Signature& signature() const override { return signature_; }
  std::string_view platform() const override { return "fake"; }
  Result<std::unique_ptr<Executor>> create_executor() override {
    return std::unique_ptr<Executor>(std::make_unique<Rehearsed>(pool_, runs_));
  }

 private:
  class Rehearsed final : public Executor {
   public:
    Rehearsed(Pool& pool, std::vector<bool>& runs) : pool_(pool), runs_(runs) {}
    void rehearse(bool on) override { on_ = on; }
    Status run(std::span<const TensorView> inputs, std::int64_t,
               std::span<OutputTensor> outputs) override {
      runs_.push_back(on_);
      return copy_through(pool_, inputs, outputs);
    }

   private:
    Pool& pool_;
    std::vector<bool>& runs_;
    bool on_ = false;
  };

  const Signature signature_ = unary_signature(DType::kFp32);
  Pool& pool_;
  std::vector<bool>& runs_;
};

TEST_CASE("runs before the model serves are rehearsals, requests are not") {
  Engine engine({});
  std::vector<bool> runs;
  auto servable =
      engine.create_servable("m", 1, std::make_shared<RehearsedRunner>(engine.pool(), runs),
                             with(Execution::kInline, /*warmup=*/true));
  REQUIRE(servable.has_value());
  CHECK(runs == std::vector<bool>(12, true));  // seven rows, two apart and together, a full batch
  ModelRoutes routes;
  routes.versions[1] = *servable;
  routes.default_version = *servable;
  engine.set_routes("m", routes);
  Client client(engine);
  client.send(infer_row(1));
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(runs.size() == 13);
  CHECK_FALSE(runs.back());
}

TEST_CASE("warming up stands back, the instances do not") {
  for (const int niceness : {0, 6}) {
    EngineOptions engine_options;
    engine_options.load_niceness = niceness;
    Engine engine(engine_options);
    Log log;
    const int ours = niceness_of(::gettid());
    ServableOptions options = with(Execution::kThreads, /*warmup=*/true);
    options.instances = 2;
    const auto servable =
        serve(engine, unary_signature(DType::kFp32), log.body(engine.pool()), options);
    CHECK(warm(*servable, predict_request(7, 1)).ok());
    for (const int each : log.nicenesses) CHECK(each == std::min(ours + niceness, 19));
    log.nicenesses.clear();
    Client client(engine);
    client.send(infer_row(3));
    Answer answer;
    REQUIRE(pump(engine, [&] { return client.read(answer); }));
    CHECK(log.nicenesses == std::vector<int>{ours});
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
      CHECK(niceness_of(std::stoi(entry.path().filename().string())) == ours);
    }
    engine.remove_routes("m");
    servable->close();
  }
}

TEST_CASE("declared requests are run as often as they say, whatever model they name") {
  Engine engine({});
  Log log;
  const auto servable = serve(engine, unary_signature(DType::kFp32), log.body(engine.pool()),
                              with(Execution::kInline));
  CHECK(warm(*servable, predict_request(7, 3), 2).ok());
  CHECK(log.rows == std::vector<std::int64_t>{3, 3});
  CHECK(log.values == std::vector<float>{7, 7});
  CHECK(engine.pool().stats().in_use_bytes == 0);
  servable->close();
}

TEST_CASE("declared requests that fail say why") {
  Engine engine({});
  Log log;
  const auto servable = serve(engine, unary_signature(DType::kFp32), log.body(engine.pool()),
                              with(Execution::kInline));
  const Status poisoned = warm(*servable, predict_request(-1, 1), 5);
  CHECK(poisoned.code() == Code::kInternal);
  CHECK(poisoned.message().find("poisoned") != std::string::npos);
  CHECK(log.rows.size() == 1);  // not tried again
  CHECK(warm(*servable, predict_request(1, 1, "nobody")).code() == Code::kInvalidArgument);
  CHECK(warm(*servable, predict_request(1, 1, "x", "other")).code() == Code::kFailedPrecondition);
  CHECK(warm(*servable, "\xff\xff").code() == Code::kInvalidArgument);
  CHECK(warm(*servable, "").code() == Code::kInvalidArgument);
  CHECK(engine.pool().stats().in_use_bytes == 0);
  // It serves all the same.
  Client client(engine);
  client.send(infer_row(3));
  Answer answer;
  REQUIRE(pump(engine, [&] { return client.read(answer); }));
  CHECK(answer.status == 200);
  engine.remove_routes("m");
  servable->close();
}

}  // namespace
}  // namespace servolley::engine
