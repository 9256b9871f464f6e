#pragma once

#include <algorithm>
#include <string>

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
    const std::lock_guard lock(mutex_);
    refusal_ = std::move(status);
  }
  // Rows of every batch launched so far, in order; at least `count`, or whatever there is after
  // five seconds.
  std::vector<std::int64_t> await_launches(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(5), [&] { return launches_.size() >= count; });
    return launches_;
  }
  std::size_t most_under_way() {
    const std::lock_guard lock(mutex_);
    return most_under_way_;
  }
  bool broken() {
    const std::lock_guard lock(mutex_);
    return broken_;
  }

  Status launch(std::int64_t rows) {
    const std::lock_guard lock(mutex_);
    if (broken_) return internal_error("an illegal memory access was encountered");
    if (!refusal_.ok()) return refusal_;
    launches_.push_back(rows);
    most_under_way_ = std::max(most_under_way_, ++under_way_);
    changed_.notify_all();
    return {};
  }
  Status wait() {
    std::unique_lock lock(mutex_);
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
  Status refusal_;
  std::vector<std::int64_t> launches_;
  std::size_t under_way_ = 0;
  std::size_t most_under_way_ = 0;
};

class FakeLanes final : public LaneExecutor {
 public:
  FakeLanes(FakeDevice& device, int lanes)
      : device_(device), lanes_(static_cast<std::size_t>(lanes)) {}

  int lanes() const override { return static_cast<int>(lanes_.size()); }
  bool broken() const override { return device_.broken(); }

  Status launch(int number, const LaunchedBatch& batch) override {
    Lane& lane = lanes_[static_cast<std::size_t>(number)];
    REQUIRE_FALSE(lane.taken);
    SERVOLLEY_TRY(device_.launch(batch.rows));
    lane.taken = true;
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
  LaunchingRunner(Signature signature, std::vector<FakeDevice*> devices)
      : signature_(std::move(signature)), devices_(std::move(devices)) {
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

 private:
  const Signature signature_;
  const std::vector<FakeDevice*> devices_;
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

inline ServableOptions with_lanes(int lanes) {
  ServableOptions options;
  options.warmup = false;
  options.lanes = lanes;
  return options;
}

}  // namespace servolley::engine
