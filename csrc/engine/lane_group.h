#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "batching/placement.h"
#include "batching/queue.h"
#include "engine/batch.h"
#include "engine/looks.h"
#include "runtime/runner.h"

namespace servolley::engine {

// What a servable shares with whoever launches its batches.
struct LaneContext {
  const Signature& signature;
  BatchPool& batches;
  BatchSink& completions;  // thread-safe
  std::mutex& mutex;       // of the queue, and of everything here that is guarded
  batching::Queue& queue;
  const std::atomic<bool>& watched;  // see Servable::watch_outputs()
  LaneLooks looks;
};

// The instances of a servable whose runner launches: one for each device, with a thread that
// launches whatever may run together into every lane that is free, and a thread that waits for the
// device and hands on what has come down. While all lanes are taken requests gather in the queue.
//
// A client that talks alone finds both threads awake where there are processors for it: they look
// for its next request for a moment before they sleep, and the launching thread is woken for that
// when its answer is on the way.
//
// A thread that gets no memory loses nothing: a batch is answered RESOURCE_EXHAUSTED, or, before it
// is taken, waits a little longer.
class LaneGroup {
 public:
  explicit LaneGroup(const LaneContext& context);
  ~LaneGroup();
  LaneGroup(const LaneGroup&) = delete;
  LaneGroup& operator=(const LaneGroup&) = delete;

  // Makes an executor for each of the runner's devices.
  Status create(Runner& runner, const LaneOptions& options);
  // Starts the threads. RESOURCE_EXHAUSTED if the system has none left.
  Status start();
  // Has every launching thread do `chore` with its executor while all of its lanes are free: what a
  // runtime keeps per thread has to be warmed up where it is used. Returns when all have; the first
  // error, if there is one. UNAVAILABLE once the group stops. Any thread, one at a time.
  using Chore = std::function<Status(LaneExecutor&)>;
  Status run_on_launchers(const Chore& chore);
  // Joins the threads and frees the executors. Nothing may be waiting or launched any more.
  void stop();

  // Under the mutex: wakes whoever should look at the queue, if he sleeps.
  void wake();
  // Every device has failed, whoever noticed: nothing more may be admitted. Any thread.
  bool broken() const;
  // The same under the mutex.
  bool all_broken() const;

 private:
  struct Instance {
    std::size_t index = 0;
    DeviceId device;  // whose memory outputs may be wanted in; the host's: in no device's
    std::unique_ptr<LaneExecutor> executor;

    // Guarded by the queue's mutex.
    std::condition_variable work;
    bool asleep = false;
    std::atomic<std::uint32_t> calls{0};  // changes under the mutex; looked at without it
    std::vector<int> free_lanes;
    std::vector<std::unique_ptr<Batch>> again;  // halves of batches that have failed
    const Chore* chore = nullptr;               // to be done when all lanes are free
    Status chore_status;                        // how it went, once it is over
    bool lost = false;                          // its device has failed, and that has been seen to

    // From the launching thread to the completing one.
    std::mutex launched_mutex;
    std::condition_variable launched_more;
    std::vector<std::unique_ptr<Batch>> launched;  // in order; never longer than there are lanes
    bool launched_all = false;
    std::atomic<std::uint32_t> launches{0};  // changes with these two; looked at without the mutex

    // The launching thread's.
    std::unique_ptr<Batch> spare;
    std::vector<InputPart> parts;
    std::vector<OutputPart> targets;

    std::jthread launcher;
    std::jthread completer;
  };

  void launch_main(Instance& self);
  void complete_main(Instance& self);
  // Under the mutex: has the launching thread look at everything again, asleep or not.
  static void call(Instance& instance);
  // Under the lock: what has to be done before work is taken. True if it was done now, for which
  // the lock was let go.
  bool did_chore(Instance& self, std::unique_lock<std::mutex>& lock);
  bool lost_just_now(Instance& self, std::unique_lock<std::mutex>& lock);
  // Waits for work and a lane to put it in. False when it is time to go. If there is no memory
  // (std::bad_alloc), nothing has been taken.
  bool take(Instance& self, std::unique_ptr<Batch>& batch, Batch& expired);
  // Under the mutex.
  void find_work(Instance& self, std::unique_ptr<Batch>& batch, Batch& expired, TimePoint& ready);
  void place(Instance& self, Batch& batch);
  bool all_free(const Instance& self) const;
  // Under the mutex: whether the next request is this thread's, and would find nothing to wait for.
  bool worth_a_look(const Instance& self) const;
  // Where memory was short: a pause. True when it is time to go.
  bool rest(Instance& self);
  void launch(Instance& self, std::unique_ptr<Batch> batch);
  Status queue_up(Instance& self, Batch& batch);
  void find_targets(Instance& self, const Batch& batch) const;
  void hand_to_completer(Instance& self, std::unique_ptr<Batch> batch);
  // Waits for one. Null when there will be none any more.
  std::unique_ptr<Batch> next_launched(Instance& self, bool look_first);
  void complete(Instance& self, std::unique_ptr<Batch> batch, Status status);
  Status wait_for(Instance& self, Batch& batch);
  // What is left to do with outputs that are there.
  Status finish(Batch& batch) const;
  // Whether nothing else waits or is under way.
  bool free_lane(Instance& self, const Batch& batch);
  // Wakes the thread that would launch the next request, so that it looks for it.
  void expect_more();
  void fail(Instance& self, std::unique_ptr<Batch> batch, Status status);
  // The instance's device has failed for good. Nothing has been done if there is no memory for it
  // (std::bad_alloc).
  void lose(Instance& self);
  // The same; the launching thread sees to it when there is memory again.
  void lose_or_call(Instance& self);

  const LaneContext context_;
  std::vector<std::unique_ptr<Instance>> instances_;
  batching::Placement placement_;  // guarded
  std::condition_variable chore_done_;
  std::atomic<std::uint32_t> arrivals_{0};  // changes when somebody waits; under the mutex
  bool stopping_ = false;                   // guarded, as is the next
  bool broken_ = false;                     // every device was, when the group stopped
};

}  // namespace servolley::engine
