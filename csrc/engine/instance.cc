// How batches come to run apart from the loop: on instance threads, or launched on devices.

#include <algorithm>
#include <utility>

#include "engine/servable.h"

namespace servolley::engine {
namespace {

// What batches may be filled up to: the sizes for graphs, the preferred sizes or the powers of two,
// and the largest.
std::vector<std::int64_t> row_buckets(const ServableOptions& options, int max_batch_size) {
  const auto& sizes =
      options.graph_rows.empty() ? options.preferred_batch_sizes : options.graph_rows;
  std::vector<std::int64_t> buckets(sizes.begin(), sizes.end());
  std::erase_if(buckets, [&](std::int64_t rows) { return rows > max_batch_size; });
  if (buckets.empty()) {
    for (std::int64_t rows = 1; rows < max_batch_size; rows *= 2) buckets.push_back(rows);
  }
  std::sort(buckets.begin(), buckets.end());
  if (buckets.empty() || buckets.back() < max_batch_size) buckets.push_back(max_batch_size);
  return buckets;
}

}  // namespace

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

Status Servable::start_lanes() {
  if (options_.execution == Execution::kInline) {
    return invalid_argument("execution = inline is for models on the CPU");
  }
  LaneOptions options;
  options.lanes = instances_ * std::max(1, options_.lanes);
  if (signature_.batched) options.row_buckets = row_buckets(options_, max_batch_size_);
  lanes_ = std::make_unique<LaneGroup>(LaneContext{.signature = signature_,
                                                   .batches = context_.batches,
                                                   .completions = context_.completions,
                                                   .mutex = mutex_,
                                                   .queue = queue_,
                                                   .watched = watched_});
  SERVOLLEY_TRY(lanes_->create(*runner_, options));
  return lanes_->start([&](LaneExecutor& executor) {
    return options_.warmup ? warm_up(executor, options.row_buckets) : Status();
  });
}

Status Servable::warm_up(LaneExecutor& executor, std::span<const std::int64_t> row_buckets) const {
  // From the largest batch down, so that no lane's memory has to grow twice. As on the CPU, a model
  // that does not take zeros is none the worse for it; a device that fails is.
  std::vector<std::int64_t> sizes(row_buckets.rbegin(), row_buckets.rend());
  if (sizes.empty() || sizes.back() != 1) sizes.push_back(1);
  for (const std::int64_t rows : sizes) {
    Request request;
    SERVOLLEY_TRY(make_zeros(rows, request));
    std::vector<InputPart> parts;
    for (const auto& input : request.infer.inputs) {
      parts.push_back({.view = input.view, .pinned = input.owner.pinned()});
    }
    for (int lane = 0; lane < executor.lanes(); ++lane) {
      std::vector<OutputTensor> outputs(signature_.outputs.size());
      Status status = executor.launch(
          lane, {.parts = parts, .requests = 1, .rows = signature_.batched ? rows : 0});
      if (status.ok()) status = executor.wait(lane, outputs);
      if (executor.broken()) return status;
    }
  }
  return {};
}

}  // namespace servolley::engine
