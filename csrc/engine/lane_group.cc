#include "engine/lane_group.h"

#include <algorithm>
#include <new>
#include <system_error>
#include <utility>

#include "engine/guarded.h"
#include "engine/shared_tensors.h"

namespace servolley::engine {
namespace {

// How long a launching thread waits for memory that another may give back.
constexpr Duration kRest = std::chrono::milliseconds(2);

}  // namespace

LaneGroup::LaneGroup(const LaneContext& context) : context_(context) {}

LaneGroup::~LaneGroup() { stop(); }

Status LaneGroup::create(Runner& runner, const LaneOptions& options) {
  for (std::size_t i = 0; i < runner.devices().size(); ++i) {
    auto executor = runner.create_lanes(i, options);
    if (!executor) return std::move(executor).error();
    auto instance = std::make_unique<Instance>();
    instance->index = i;
    if (runner.gives_device_memory()) instance->device = runner.devices()[i];
    instance->executor = std::move(*executor);
    const auto lanes = static_cast<std::size_t>(instance->executor->lanes());
    for (std::size_t lane = lanes; lane > 0; --lane) {
      instance->free_lanes.push_back(static_cast<int>(lane - 1));
    }
    instance->launched.reserve(lanes);
    placement_.add(instance->executor->lanes());
    instances_.push_back(std::move(instance));
  }
  return {};
}

Status LaneGroup::start() {
  try {
    for (auto& instance : instances_) {
      Instance& self = *instance;
      self.launcher = std::jthread([this, &self] { launch_main(self); });
      self.completer = std::jthread([this, &self] { complete_main(self); });
    }
  } catch (const std::system_error&) {
    return {Code::kResourceExhausted, "no thread is left for another instance"};
  }
  return {};
}

Status LaneGroup::run_on_launchers(const Chore& chore) {
  std::unique_lock lock(context_.mutex);
  if (stopping_) return unavailable("the model is being unloaded");
  for (auto& instance : instances_) {
    instance->chore = &chore;
    call(*instance);
  }
  Status first;
  for (auto& instance : instances_) {
    chore_done_.wait(lock, [&] { return instance->chore == nullptr; });
    if (first.ok()) first = std::move(instance->chore_status);
  }
  return first;
}

void LaneGroup::stop() {
  {
    const std::lock_guard lock(context_.mutex);
    if (!stopping_) broken_ = all_broken();  // the executors will not be there to be asked
    stopping_ = true;
    for (auto& instance : instances_) call(*instance);
  }
  for (auto& instance : instances_) {
    if (instance->launcher.joinable()) instance->launcher.join();
    {
      const std::lock_guard lock(instance->launched_mutex);
      instance->launched_all = true;
      ++instance->launches;
    }
    instance->launched_more.notify_all();
    if (instance->completer.joinable()) instance->completer.join();
    instance->executor.reset();
  }
}

bool LaneGroup::broken() const {
  const std::lock_guard lock(context_.mutex);
  return all_broken();
}

bool LaneGroup::all_broken() const {
  if (stopping_) return broken_;
  return !instances_.empty() &&
         std::all_of(instances_.begin(), instances_.end(),
                     [](const auto& instance) { return instance->executor->broken(); });
}

void LaneGroup::call(Instance& instance) {
  ++instance.calls;
  if (instance.asleep) instance.work.notify_one();
}

void LaneGroup::wake() {
  ++arrivals_;
  while (const auto next = placement_.next()) {
    Instance& instance = *instances_[*next];
    call(instance);
    if (!instance.executor->broken()) return;
    placement_.retire(*next);  // what follows from that its own thread sees to
  }
}

bool LaneGroup::did_chore(Instance& self, std::unique_lock<std::mutex>& lock) {
  if (!self.chore) return false;
  if (!all_free(self) && !stopping_) return false;
  Status status = unavailable("the model is being unloaded");
  if (!stopping_) {
    lock.unlock();
    status = guarded([&] { return (*self.chore)(*self.executor); });
    lock.lock();
  }
  self.chore = nullptr;
  self.chore_status = std::move(status);
  chore_done_.notify_all();
  return true;
}

bool LaneGroup::lost_just_now(Instance& self, std::unique_lock<std::mutex>& lock) {
  if (self.lost || !self.executor->broken()) return false;
  lock.unlock();
  lose(self);
  lock.lock();
  return true;
}

bool LaneGroup::all_free(const Instance& self) const {
  return self.free_lanes.size() == static_cast<std::size_t>(self.executor->lanes());
}

void LaneGroup::find_work(Instance& self, std::unique_ptr<Batch>& batch, Batch& expired,
                          TimePoint& ready) {
  if (self.free_lanes.empty()) return;
  if (!self.again.empty()) {
    self.spare = std::exchange(batch, std::move(self.again.back()));
    self.again.pop_back();
  } else if (placement_.next() == self.index) {
    batch->taken = Clock::now();
    try {
      context_.queue.take(batch->taken, batch->items, expired.items);
    } catch (const std::bad_alloc&) {
      if (batch->items.empty() && expired.items.empty()) throw;
    }
    ready = context_.queue.next_ready(batch->taken);
  }
}

void LaneGroup::place(Instance& self, Batch& batch) {
  batch.placed_rows = 0;
  for (const batching::Item* item : batch.items) batch.placed_rows += item->rows;
  batch.lone = all_free(self) && self.again.empty() && context_.queue.size() == 0;
  batch.arrivals = arrivals_;
  batch.lane = self.free_lanes.back();
  self.free_lanes.pop_back();
  placement_.launched(self.index, batch.placed_rows);
  if (context_.queue.size() > 0) wake();
}

bool LaneGroup::worth_a_look(const Instance& self) const {
  return context_.looks.work > Duration::zero() && context_.queue.size() == 0 &&
         self.again.empty() && placement_.next() == self.index;
}

bool LaneGroup::take(Instance& self, std::unique_ptr<Batch>& batch, Batch& expired) {
  std::unique_lock lock(context_.mutex);
  for (bool looked = false;;) {
    // Whoever found this thread awake in between has woken nobody: everything is looked at again.
    while (did_chore(self, lock) || lost_just_now(self, lock)) {
    }
    TimePoint ready = kNever;
    find_work(self, batch, expired, ready);
    if (!batch->items.empty()) {
      place(self, *batch);
      return true;
    }
    if (!expired.items.empty()) return true;
    if (stopping_) return false;
    const std::uint32_t calls = self.calls;
    if (!looked && worth_a_look(self)) {
      lock.unlock();
      looked = !look(context_.looks.work, [&] { return self.calls != calls; });
      lock.lock();
      continue;  // also after a look in vain: nobody who came since has woken this thread
    }
    self.asleep = true;
    if (ready == kNever) {
      self.work.wait(lock);
    } else {
      self.work.wait_until(lock, ready);
    }
    self.asleep = false;
    looked = self.calls == calls;
  }
}

bool LaneGroup::rest(Instance& self) {
  std::unique_lock lock(context_.mutex);
  if (stopping_ && !self.chore && self.again.empty() && context_.queue.size() == 0) return true;
  self.asleep = true;
  self.work.wait_for(lock, kRest);
  self.asleep = false;
  return false;
}

void LaneGroup::launch_main(Instance& self) {
  std::unique_ptr<Batch> batch;
  std::unique_ptr<Batch> expired;
  for (;;) {
    try {
      if (!batch) batch = self.spare ? std::move(self.spare) : context_.batches.acquire();
      if (!expired) expired = context_.batches.acquire();
      if (!take(self, batch, *expired)) return;
      if (!batch->items.empty()) launch(self, std::exchange(batch, nullptr));
      refuse_expired(expired, context_.completions);
    } catch (const std::bad_alloc&) {  // not from launch(): nothing is lost
      if (rest(self)) return;
    }
  }
}

void LaneGroup::launch(Instance& self, std::unique_ptr<Batch> batch) {
  drop_cancelled(*batch, context_.batches, context_.completions);
  if (batch->items.empty()) {
    free_lane(self, *batch);
    context_.batches.release(std::move(batch));
    return;
  }
  Status status = guarded([&] { return queue_up(self, *batch); });
  batch->inputs_ready = Clock::now();
  if (!status.ok()) {
    free_lane(self, *batch);
    fail(self, std::move(batch), std::move(status));
    return;
  }
  hand_to_completer(self, std::move(batch));
}

void LaneGroup::hand_to_completer(Instance& self, std::unique_ptr<Batch> batch) {
  {
    const std::lock_guard lock(self.launched_mutex);
    self.launched.push_back(std::move(batch));
    ++self.launches;
  }
  self.launched_more.notify_one();
}

Status LaneGroup::queue_up(Instance& self, Batch& batch) {
  batch.number_rows();
  SERVOLLEY_TRY(read_pending(batch));
  self.parts.clear();
  for (std::size_t input = 0; input < context_.signature.inputs.size(); ++input) {
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      const Request& request = batch.request(i);
      const codec::InputTensor& tensor = request.infer.inputs[input];
      const Buffer& owner = tensor.owner ? tensor.owner : request.body;
      const bool on_device = tensor.device.kind != DeviceKind::kCpu;
      const bool clients = tensor.shared && !tensor.owner;  // read where it lies
      self.parts.push_back({.view = tensor.view,
                            .pinned = !on_device && (clients || owner.pinned()),
                            .on_device = on_device});
    }
  }
  batch.watched = context_.watched.load(std::memory_order_relaxed);
  find_targets(self, batch);
  batch.outputs.resize(
      context_.signature.outputs.size());  // once it is launched it must be waited for
  const bool shared = context_.signature.batched && !batch.items.front()->alone;
  return self.executor->launch(batch.lane, {.parts = self.parts,
                                            .requests = batch.items.size(),
                                            .rows = shared ? batch.rows : 0,
                                            .targets = self.targets});
}

void LaneGroup::find_targets(Instance& self, const Batch& batch) const {
  self.targets.clear();
  // Whoever looks at the outputs needs them on the host.
  if (self.device.kind == DeviceKind::kCpu || batch.watched) return;
  bool any = false;
  for (std::size_t output = 0; output < context_.signature.outputs.size(); ++output) {
    const bool bytes = context_.signature.outputs[output].dtype == DType::kBytes;
    for (std::size_t i = 0; i < batch.items.size(); ++i) {
      const Request& request = batch.request(i);
      OutputPart target;
      if (!bytes && !request.shadow && !request.output_regions.empty()) {
        target = device_target(request, output, self.device);
      }
      any = any || target.data;
      self.targets.push_back(target);
    }
  }
  if (!any) self.targets.clear();
}

}  // namespace servolley::engine
