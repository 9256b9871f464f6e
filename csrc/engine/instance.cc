// How batches come to run apart from the loop: on instance threads, or launched on devices.

#include <algorithm>
#include <utility>

#include "engine/servable.h"

namespace servolley::engine {
// One instance thread: takes whatever may run together the moment it is free, runs it, and parks
// only when nothing waits. A busy instance never makes a system call to find work.
void Servable::instance_main(BatchRunner& runner) {
  std::unique_ptr<Batch> batch;
  std::unique_ptr<Batch> expired;
  for (;;) {
    if (!batch) batch = context_.batches.acquire();
    if (!expired) expired = context_.batches.acquire();
    {
      std::unique_lock lock(mutex_);
      for (;;) {
        batch->taken = Clock::now();
        queue_.take(batch->taken, batch->items, expired->items);
        if (!batch->items.empty() || !expired->items.empty()) break;
        if (stopping_) return;
        const TimePoint ready = queue_.next_ready(batch->taken);
        ++sleepers_;
        if (ready == kNever) {
          work_.wait(lock);
        } else {
          work_.wait_until(lock, ready);
        }
        --sleepers_;
      }
    }
    refuse_expired(expired, context_.completions);
    if (batch->items.empty()) continue;
    runner.run(std::exchange(batch, nullptr), context_.completions);
    observe_run(runner.last_run());
  }
}

// What batches may be filled up to: the sizes for graphs, the preferred sizes or the powers of two,
// and the largest.
std::vector<std::int64_t> Servable::row_buckets() const {
  if (!signature_.batched) return {};
  const auto& sizes =
      options_.graph_rows.empty() ? options_.preferred_batch_sizes : options_.graph_rows;
  std::vector<std::int64_t> buckets(sizes.begin(), sizes.end());
  std::erase_if(buckets, [&](std::int64_t rows) { return rows > max_batch_size_; });
  if (buckets.empty()) {
    for (std::int64_t rows = 1; rows < max_batch_size_; rows *= 2) buckets.push_back(rows);
  }
  std::sort(buckets.begin(), buckets.end());
  if (buckets.empty() || buckets.back() < max_batch_size_) buckets.push_back(max_batch_size_);
  return buckets;
}

Status Servable::start_lanes() {
  if (options_.execution == Execution::kInline) {
    return invalid_argument("execution = inline is for models on the CPU");
  }
  LaneOptions options;
  options.lanes = instances_ * std::max(1, options_.lanes);
  options.row_buckets = row_buckets();
  lanes_ = std::make_unique<LaneGroup>(LaneContext{.signature = signature_,
                                                   .batches = context_.batches,
                                                   .completions = context_.completions,
                                                   .mutex = mutex_,
                                                   .queue = queue_,
                                                   .watched = watched_,
                                                   .looks = context_.looks});
  SERVOLLEY_TRY(lanes_->create(*runner_, options));
  SERVOLLEY_TRY(lanes_->start());
  // First: batches that are filled up, and graphs, are only for rows that do not depend on others.
  if (options_.warmup) SERVOLLEY_TRY(check_rows_on_lanes());
  const bool fills = options_.filling == Filling::kOn;
  if (!options_.warmup && !fills) return {};
  return lanes_->run_on_launchers([this, fills](LaneExecutor& executor) {
    executor.fill_up(fills);
    return options_.warmup ? warm_up(executor) : Status();
  });
}

Status Servable::check_rows_on_lanes() {
  std::atomic<bool> mixes{false};  // every device's thread asks
  const Status status = lanes_->run_on_launchers([this, &mixes](LaneExecutor& executor) {
    const auto run = [&](auto inputs, auto rows, auto outputs) -> Status {
      std::vector<InputPart> parts;
      for (const TensorView& view : inputs) parts.push_back({.view = view});
      SERVOLLEY_TRY(executor.launch(0, {.parts = parts, .rows = rows, .may_capture = false}));
      return executor.wait(0, outputs);
    };
    if (seems_to_mix_rows(run)) mixes = true;
    return Status();
  });
  if (mixes) keep_requests_apart();
  return status;
}

}  // namespace servolley::engine
