#include "base/quiet_work.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <exception>
#include <system_error>

namespace servolley {
namespace {

constexpr int kNicest = 19;

// Linux has a niceness for each thread. Nobody is refused a higher one.
void stand_back(int by) {
  const auto self = static_cast<::id_t>(::gettid());
  const int now = ::getpriority(PRIO_PROCESS, self);
  (void)::setpriority(PRIO_PROCESS, self, std::min(now + by, kNicest));
}

}  // namespace

void QuietWork::run(const std::function<void()>& work) {
  if (niceness_ <= 0) return work();
  std::exception_ptr failure;
  {
    const std::lock_guard lock(mutex_);
    running_ = true;
    done_ = false;
  }
  const auto quietly = [&] {
    stand_back(niceness_);
    try {
      work();
    } catch (...) {
      failure = std::current_exception();
    }
    // Told inside the lock: with it the waiting thread may take everything away.
    const std::lock_guard lock(mutex_);
    done_ = true;
    changed_.notify_all();
  };
  std::thread thread;
  try {
    thread = std::thread(quietly);
  } catch (const std::system_error&) {
    over();  // no thread to be had
    return work();
  }
  serve();
  thread.join();
  over();
  if (failure) std::rethrow_exception(failure);
}

void QuietWork::serve() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return task_ || done_; });
    if (!task_) return;
    lock.unlock();
    (*task_)();
    lock.lock();
    task_ = nullptr;
    changed_.notify_all();
  }
}

void QuietWork::over() {
  const std::lock_guard lock(mutex_);
  running_ = false;
}

void QuietWork::outside(const std::function<void()>& task) {
  std::unique_lock lock(mutex_);
  if (!running_) {
    lock.unlock();
    return task();
  }
  changed_.wait(lock, [this] { return !task_; });
  task_ = &task;
  changed_.notify_all();
  changed_.wait(lock, [&] { return task_ != &task; });
}

}  // namespace servolley
