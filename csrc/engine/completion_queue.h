#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "engine/batch.h"

namespace servolley::engine {

// Finished batches on their way to the loop thread. Any thread pushes; the eventfd is written only
// when the list goes from empty to not empty, so a burst costs one wake-up.
class CompletionQueue final : public BatchSink {
 public:
  CompletionQueue();
  ~CompletionQueue() override;
  CompletionQueue(const CompletionQueue&) = delete;
  CompletionQueue& operator=(const CompletionQueue&) = delete;

  int fd() const { return fd_; }
  void finished(std::unique_ptr<Batch> batch) override;
  // Wakes the loop without a batch.
  void wake();
  // Loop thread: resets the eventfd and swaps everything finished into `batches` (which must be
  // empty).
  void take(std::vector<std::unique_ptr<Batch>>& batches);

 private:
  int fd_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Batch>> finished_;
};

}  // namespace servolley::engine
