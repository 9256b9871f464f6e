#include "engine/completion_queue.h"

#include <sys/eventfd.h>
#include <unistd.h>

namespace servolley::engine {

CompletionQueue::CompletionQueue() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}

CompletionQueue::~CompletionQueue() {
  while (first_) first_ = std::move(first_->next);  // a long list must not nest its destructors
  if (fd_ >= 0) ::close(fd_);
}

void CompletionQueue::finished(std::unique_ptr<Batch> batch) {
  bool was_empty = false;
  {
    const std::lock_guard lock(mutex_);
    was_empty = !first_;
    Batch* const added = batch.get();
    (was_empty ? first_ : last_->next) = std::move(batch);
    last_ = added;
  }
  if (was_empty) wake();
}

void CompletionQueue::wake() {
  const std::uint64_t one = 1;
  // Fails only when the counter is full, and then the loop is being woken anyway.
  [[maybe_unused]] const auto written = ::write(fd_, &one, sizeof one);
}

std::unique_ptr<Batch> CompletionQueue::take() {
  std::uint64_t count = 0;
  [[maybe_unused]] const auto read = ::read(fd_, &count, sizeof count);
  const std::lock_guard lock(mutex_);
  return std::move(first_);
}

}  // namespace servolley::engine
