#pragma once

#include <pthread.h>
#include <time.h>

#include <algorithm>
#include <limits>
#include <set>
#include <string>
#include <thread>

#include "harness.h"

namespace servolley::engine {

// A device that batches are launched on. It is done with a batch when somebody waits for it and it
// is not held; what it does with one is a Body, run then.
class FakeDevice {
 public:
  FakeDevice(Pool& pool, Body body) : pool_(pool), body_(std::move(body)) {}

  // Nothing completes from now on.
  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void release() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    changed_.notify_all();
  }
  // Every wait and every launch from now on fails.
  void fail_for_good() {
    const std::lock_guard lock(mutex_);
    broken_ = true;
    changed_.notify_all();
  }
  void refuse_launches(Status status) {
    refuse_next(std::numeric_limits<int>::max(), std::move(status));
  }
  // Rows of every batch launched so far, in order; at least `count`, or whatever there is after
  // five seconds.
  std::vector<std::int64_t> await_launches(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(5), [&] { return launches_.size() >= count; });
    return launches_;
  }
  // What is launched next is refused, so many times.
  void refuse_next(int count, Status status) {
    const std::lock_guard lock(mutex_);
    refused_ = count;
    refusal_ = std::move(status);
  }
  std::size_t most_under_way() {
    const std::lock_guard lock(mutex_);
    return most_under_way_;
  }
  // By launch, those that were refused as well.
  std::vector<bool> captures() {
    const std::lock_guard lock(mutex_);
    return captures_;
  }
  // Whether nobody would have to wait, which is counted.
  bool done() {
    const std::lock_guard lock(mutex_);
    ++looks_;
    changed_.notify_all();
    return !held_ || broken_;
  }
  // How often somebody has looked; at least `count`, or whatever it is after five seconds.
  int await_looks(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(5), [&] { return looks_ >= count; });
    return looks_;
  }
  // How often somebody has waited for a device that was held; the same.
  int await_waits(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(5), [&] { return waits_ >= count; });
    return waits_;
  }
  // What the thread that launched last has computed so far.
  Duration launching_cpu() {
    const std::lock_guard lock(mutex_);
    timespec used{};
    REQUIRE(::clock_gettime(launching_clock_, &used) == 0);
    return std::chrono::seconds(used.tv_sec) + std::chrono::nanoseconds(used.tv_nsec);
  }
  std::size_t launching_threads() {
    const std::lock_guard lock(mutex_);
    return threads_.size();
  }
  bool broken() {
    const std::lock_guard lock(mutex_);
    return broken_;
  }
  // What a batch takes longer that has other rows than the last.
  void change_costs(Duration cost) {
    const std::lock_guard lock(mutex_);
    change_ = cost;
  }
  void fill_up(bool on) {
    const std::lock_guard lock(mutex_);
    filled_up_ = on;
  }
  bool filled_up() {
    const std::lock_guard lock(mutex_);
    return filled_up_;
  }

  Status launch(std::int64_t rows, bool may_capture = true) {
    const std::lock_guard lock(mutex_);
    threads_.insert(std::this_thread::get_id());
    ::pthread_getcpuclockid(::pthread_self(), &launching_clock_);
    captures_.push_back(may_capture);
    if (broken_) return internal_error("an illegal memory access was encountered");
    if (refused_ > 0) {
      --refused_;
      return refusal_;
    }
    if (launches_.empty() || launches_.back() != rows) std::this_thread::sleep_for(change_);
    launches_.push_back(rows);
    most_under_way_ = std::max(most_under_way_, ++under_way_);
    changed_.notify_all();
    return {};
  }
  Status wait() {
    std::unique_lock lock(mutex_);
    if (held_ && !broken_) ++waits_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return !held_ || broken_; });
    --under_way_;
    return broken_ ? internal_error("an illegal memory access was encountered") : Status();
  }
  Status run(std::span<const TensorView> inputs, std::int64_t rows,
             std::span<OutputTensor> outputs) const {
    return body_(inputs, rows, outputs);
  }
  Pool& pool() const { return pool_; }

 private:
  Pool& pool_;
  const Body body_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  bool broken_ = false;
  bool filled_up_ = false;
  Duration change_{};
  int refused_ = 0;
  Status refusal_;
  std::vector<std::int64_t> launches_;
  std::vector<bool> captures_;
  std::set<std::thread::id> threads_;
  clockid_t launching_clock_{};
  int looks_ = 0;
  int waits_ = 0;
  std::size_t under_way_ = 0;
  std::size_t most_under_way_ = 0;
};

class FakeLanes final : public LaneExecutor {
 public:
  FakeLanes(FakeDevice& device, int lanes)
      : device_(device), lanes_(static_cast<std::size_t>(lanes)) {}

  int lanes() const override { return static_cast<int>(lanes_.size()); }
  bool broken() const override { return device_.broken(); }
  void fill_up(bool on) override { device_.fill_up(on); }
  bool done(int) override { return device_.done(); }

  Status launch(int number, const LaunchedBatch& batch) override {
    Lane& lane = lanes_[static_cast<std::size_t>(number)];
    REQUIRE_FALSE(lane.taken);
    SERVOLLEY_TRY(device_.launch(batch.rows, batch.may_capture));
    lane.rows = batch.rows;
    lane.inputs.resize(batch.parts.size() / batch.requests);
    lane.views.clear();
    for (std::size_t i = 0; i < lane.inputs.size(); ++i) {
      const auto parts = batch.input(i);
      lane.inputs[i].clear();
      for (const InputPart& part : parts) {
        lane.inputs[i].insert(lane.inputs[i].end(), part.view.data,
                              part.view.data + part.view.bytes);
      }
      TensorView view = parts.front().view;
      if (parts.size() > 1) view.shape[0] = batch.rows;
      view.data = lane.inputs[i].data();
      view.bytes = lane.inputs[i].size();
      lane.views.push_back(view);
    }
    lane.taken = true;  // last: for lack of memory any of this may fail
    return {};
  }

  Status wait(int number, std::span<OutputTensor> outputs) override {
    Lane& lane = lanes_[static_cast<std::size_t>(number)];
    REQUIRE(lane.taken);
    const Status done = device_.wait();
    lane.taken = false;
    if (!done.ok()) return done;
    return device_.run(lane.views, lane.rows, outputs);
  }

 private:
  struct Lane {
    bool taken = false;
    std::int64_t rows = 0;
    std::vector<std::vector<std::byte>> inputs;
    std::vector<TensorView> views;
  };
  FakeDevice& device_;
  std::vector<Lane> lanes_;
};

class LaunchingRunner final : public Runner {
 public:
  LaunchingRunner(Signature signature, std::vector<FakeDevice*> devices,
                  GraphUse graphs = GraphUse::kOff)
      : signature_(std::move(signature)), devices_(std::move(devices)), graphs_(graphs) {
    for (std::size_t i = 0; i < devices_.size(); ++i) {
      ids_.push_back({DeviceKind::kCuda, static_cast<int>(i)});
    }
  }
  const Signature& signature() const override { return signature_; }
  std::string_view platform() const override { return "fake"; }
  std::span<const DeviceId> devices() const override { return ids_; }
  Result<std::unique_ptr<Executor>> create_executor() override {
    return internal_error("runs on devices only");
  }
  Result<std::unique_ptr<LaneExecutor>> create_lanes(std::size_t device,
                                                     const LaneOptions& options) override {
    return std::unique_ptr<LaneExecutor>(
        std::make_unique<FakeLanes>(*devices_[device], options.lanes));
  }
  GraphUse graphs() const override { return graphs_; }

 private:
  const Signature signature_;
  const std::vector<FakeDevice*> devices_;
  const GraphUse graphs_;
  std::vector<DeviceId> ids_;
};

inline std::shared_ptr<Servable> serve_on(Engine& engine, std::vector<FakeDevice*> devices,
                                          ServableOptions options, const std::string& name = "m") {
  auto runner =
      std::make_shared<LaunchingRunner>(unary_signature(DType::kFp32), std::move(devices));
  auto servable = engine.create_servable(name, 1, runner, std::move(options));
  REQUIRE(servable.has_value());
  ModelRoutes routes;
  routes.versions[1] = *servable;
  routes.default_version = *servable;
  engine.set_routes(name, routes);
  return *servable;
}

// An engine whose threads look for what comes next, for so long.
inline EngineOptions looking(Duration longest, int processors = 4) {
  EngineOptions options;
  options.processors = processors;
  options.lane_looks = {.work = longest, .device = longest, .loop = Duration::zero()};
  return options;
}

inline ServableOptions with_lanes(int lanes) {
  ServableOptions options;
  options.warmup = false;
  options.lanes = lanes;
  return options;
}

inline std::vector<std::unique_ptr<Client>> clients_of(Engine& engine, int count) {
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < count; ++i) clients.push_back(std::make_unique<Client>(engine));
  return clients;
}

}  // namespace servolley::engine
