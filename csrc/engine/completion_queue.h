#pragma once

#include <memory>
#include <mutex>

#include "engine/batch.h"

namespace servolley::engine {

// Finished batches on their way to the loop thread. Any thread pushes; the eventfd is written only
// when the list goes from empty to not empty, so a burst costs one wake-up. The batches themselves
// are the list: it takes no memory that might not be there.
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
  // Loop thread: resets the eventfd and takes everything finished, linked by Batch::next.
  std::unique_ptr<Batch> take();

 private:
  int fd_;
  std::mutex mutex_;
  std::unique_ptr<Batch> first_;  // guarded, as is the next
  Batch* last_ = nullptr;
};

}  // namespace servolley::engine
