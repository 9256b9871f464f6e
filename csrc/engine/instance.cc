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

}  // namespace servolley::engine
