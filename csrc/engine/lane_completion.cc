// The second half of a lane group: what becomes of batches that were launched, and of those that
// failed.

#include <new>
#include <utility>

#include "engine/guarded.h"
#include "engine/lane_group.h"
#include "engine/shared_tensors.h"

namespace servolley::engine {
namespace {

// Every look at a device takes a lock of its driver, which the launching thread needs as well.
constexpr Duration kBetweenLooks = std::chrono::microseconds(2);

}  // namespace

void LaneGroup::complete_main(Instance& self) {
  bool quiet = false;
  while (auto batch = next_launched(self, quiet)) {
    Status status = guarded([&] { return wait_for(self, *batch); });
    batch->run_end = Clock::now();
    quiet = free_lane(self, *batch);  // first: the device must not wait for what is done here
    complete(self, std::move(batch), std::move(status));
    if (quiet) expect_more();
  }
}

std::unique_ptr<Batch> LaneGroup::next_launched(Instance& self, bool look_first) {
  std::unique_lock lock(self.launched_mutex);
  const auto there = [&] { return !self.launched.empty() || self.launched_all; };
  if (look_first && !there()) {
    const std::uint32_t launches = self.launches;
    lock.unlock();
    look(context_.looks.work, [&] { return self.launches != launches; });
    lock.lock();
  }
  self.launched_more.wait(lock, there);
  if (self.launched.empty()) return nullptr;
  auto batch = std::move(self.launched.front());
  self.launched.erase(self.launched.begin());
  return batch;
}

Status LaneGroup::wait_for(Instance& self, Batch& batch) {
  if (batch.lone && context_.looks.device > Duration::zero()) {
    // Not once somebody waits: then the launching thread has work, and nobody is alone.
    const auto there = [&] {
      return arrivals_ != batch.arrivals || self.executor->done(batch.lane);
    };
    // Whatever comes of it: what is launched must be waited for.
    (void)guarded([&] {
      look(context_.looks.device, there, kBetweenLooks);
      return Status();
    });
  }
  return self.executor->wait(batch.lane, batch.outputs);
}

void LaneGroup::complete(Instance& self, std::unique_ptr<Batch> batch, Status status) {
  if (status.ok()) status = guarded([&] { return finish(*batch); });
  if (!status.ok()) {
    fail(self, std::move(batch), std::move(status));
    return;
  }
  batch->executed = true;
  context_.completions.finished(std::move(batch));
}

Status LaneGroup::finish(Batch& batch) const {
  if (batch.items.size() > 1) SERVOLLEY_TRY(index_outputs(context_.signature, batch));
  if (batch.watched) batch.nonfinite = count_nonfinite(batch);
  deliver_to_devices(batch);
  return {};
}

bool LaneGroup::free_lane(Instance& self, const Batch& batch) {
  const std::lock_guard lock(context_.mutex);
  self.free_lanes.push_back(batch.lane);
  placement_.finished(self.index, batch.placed_rows);
  if (!self.again.empty() || self.chore) call(self);
  if (context_.queue.size() > 0) wake();
  return context_.queue.size() == 0 && self.again.empty() && all_free(self);
}

void LaneGroup::expect_more() {
  if (context_.looks.work == Duration::zero()) return;
  const std::lock_guard lock(context_.mutex);
  const auto next = placement_.next();
  if (next && instances_[*next]->asleep && worth_a_look(*instances_[*next])) {
    call(*instances_[*next]);
  }
}

void LaneGroup::fail(Instance& self, std::unique_ptr<Batch> batch, Status status) {
  batch->executed = false;
  const bool lost = self.executor->broken();
  if (!lost && batch->items.size() > 1) {
    batch->outputs.clear();
    const std::lock_guard lock(context_.mutex);
    try {
      self.again.reserve(self.again.size() + 2);
      auto half = split(*batch, context_.batches);
      self.again.push_back(std::move(batch));
      self.again.push_back(std::move(half));
      call(self);
      return;
    } catch (const std::bad_alloc&) {  // then the neighbours cannot be told apart
      status = out_of_memory();
    }
  }
  batch->outputs.clear();
  batch->status = std::move(status);
  batch->failure = FailureReason::kBackend;
  // First: whoever reads the answer and asks again is not told to wait for this device.
  if (lost) lose_or_call(self);
  context_.completions.finished(std::move(batch));
}

void LaneGroup::lose_or_call(Instance& self) {
  try {
    lose(self);
  } catch (const std::bad_alloc&) {
    const std::lock_guard lock(context_.mutex);
    call(self);
  }
}

void LaneGroup::lose(Instance& self) {
  auto stranded = context_.batches.acquire();
  stranded->status = unavailable("the device that this model runs on has failed");
  stranded->failure = FailureReason::kBackend;
  {
    const std::lock_guard lock(context_.mutex);
    stranded->items.reserve(context_.queue.size());
    self.lost = true;
    placement_.retire(self.index);
    if (placement_.none_left()) {
      context_.queue.expire(kNever, stranded->items);  // everything
    } else if (context_.queue.size() > 0) {
      wake();
    }
  }
  if (stranded->items.empty()) {
    context_.batches.release(std::move(stranded));
    return;
  }
  context_.completions.finished(std::move(stranded));
}

}  // namespace servolley::engine
