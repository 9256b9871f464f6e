#include "engine/batch.h"

namespace servolley::engine {

void Batch::clear() {
  items.clear();
  outputs.clear();
  for (auto& offsets : bytes_offsets) offsets.clear();
  status = {};
  failure = FailureReason::kOther;
  rows = 0;
  executed = false;
}

std::unique_ptr<Batch> BatchPool::acquire() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      auto batch = std::move(free_.back());
      free_.pop_back();
      return batch;
    }
  }
  return std::make_unique<Batch>();
}

void BatchPool::release(std::unique_ptr<Batch> batch) {
  batch->clear();  // outside the lock: leases die here
  const std::lock_guard lock(mutex_);
  free_.push_back(std::move(batch));
}

}  // namespace servolley::engine
