#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

namespace servolley {

// Work that gives way to whoever answers requests: it runs on a thread of its own that stands back.
//
// A lowered priority is for good where a process may not raise one, and whatever a thread starts
// inherits it. So the thread ends with the work, and what is to outlive it - other threads - is
// started by outside(), on the thread that waits for the work.
class QuietWork {
 public:
  // `niceness`: how much nicer than the process; 0 = run() and outside() just call.
  explicit QuietWork(int niceness) : niceness_(niceness) {}
  QuietWork(const QuietWork&) = delete;
  QuietWork& operator=(const QuietWork&) = delete;

  // Returns when `work` is done. One at a time.
  void run(const std::function<void()>& work);
  // From within `work`: has `task` done by the thread that called run(), and waits for it. Before
  // and after run() it just calls.
  void outside(const std::function<void()>& task);

 private:
  void serve();
  void over();

  const int niceness_;
  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void()>* task_ = nullptr;  // guarded, as the other two are
  bool running_ = false;
  bool done_ = false;
};

}  // namespace servolley
