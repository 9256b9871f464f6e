#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "base/quiet_work.h"
#include "batching/queue.h"
#include "engine/batch.h"
#include "engine/batch_runner.h"
#include "engine/lane_group.h"
#include "engine/looks.h"
#include "engine/row_check.h"
#include "engine/stats.h"
#include "memory/pool.h"
#include "runtime/runner.h"

namespace servolley::engine {

enum class Execution : std::uint8_t { kAuto, kInline, kThreads };

// Whether batches on devices are filled up to one of few sizes.
enum class Filling : std::uint8_t { kAuto, kOff, kOn };

struct ServableOptions {
  Execution execution = Execution::kAuto;
  Filling filling = Filling::kAuto;
  int instances = 0;                    // batches in flight at once; 0 = one
  int lanes = 2;                        // on devices: batches under way for each of these
  int max_batch_size = -1;              // rows; -1 = batched if the signature allows, 0 = never
  int max_batch_size_if_batchable = 0;  // where the other is -1; 0 = a default
  std::uint64_t max_queue_delay_us = 0;
  std::vector<std::uint32_t> preferred_batch_sizes;
  std::uint32_t max_queue_size = 4096;
  std::uint64_t default_timeout_us = 0;  // queue timeout of requests that name none; 0 = none
  bool allow_timeout_override = true;
  bool warmup = true;
  // Sizes that batches are filled up to where they are recorded; none: the preferred ones.
  std::vector<std::uint32_t> graph_rows;
  std::vector<std::uint32_t> warmup_rows;  // sizes to warm up besides 1, preferred, and the limit
  int load_niceness = 0;                   // how far warm-up stands back; see QuietWork
  TimePoint load_started{};                // when reading the model began; for load_time()
  // A batch of one row that runs shorter than this costs less than a hand-off to another thread.
  std::uint64_t inline_threshold_us = 50;
  std::map<std::string, std::vector<std::string>> labels;  // class labels by output
  // What the configuration says of the model's tensors; see Signature::narrow().
  std::vector<DeclaredTensor> inputs;
  std::vector<DeclaredTensor> outputs;
};

// What a servable shares with the others of its engine.
struct ServableContext {
  Pool& pool;
  BatchPool& batches;
  BatchSink& completions;  // thread-safe
  LaneLooks looks{};
};

// One loaded version: signature, queue, instances, statistics.
//
// The loop thread admits, cancels and expires; batches run on instance threads, on devices, or, for
// models that are faster than a hand-off, on the loop thread itself. close() may be called from any
// other thread.
class Servable {
 public:
  // Warms up and measures. INVALID_ARGUMENT if the options contradict the signature.
  static Result<std::shared_ptr<Servable>> create(std::string name, std::int64_t version,
                                                  std::shared_ptr<Runner> runner,
                                                  const ServableOptions& options,
                                                  const ServableContext& context);
  ~Servable();
  Servable(const Servable&) = delete;
  Servable& operator=(const Servable&) = delete;

  const std::string& name() const { return name_; }
  std::int64_t version() const { return version_; }
  const std::string& version_text() const { return version_text_; }
  const Signature& signature() const { return signature_; }
  std::string_view platform() const { return platform_; }
  const ServableOptions& options() const { return options_; }
  // Rows of one batch; 0 = unbatched.
  int max_batch_size() const { return signature_.batched ? max_batch_size_ : 0; }
  bool max_batch_inferred() const { return options_.max_batch_size < 0; }
  // Whether requests are kept apart because it was seen that rows depend on each other.
  bool rows_depend() const { return rows_depend_; }
  int instances() const { return instances_; }
  // The devices that it runs on; none: the CPU.
  std::span<const DeviceId> devices() const { return devices_; }
  // Whether inputs may lie in the memory of that device.
  bool takes_memory_of(DeviceId device) const {
    return takes_device_memory_ && devices_.size() == 1 && devices_[0] == device;
  }
  // Whether inputs may lie in pinned memory of the host that only devices may look into.
  bool takes_pinned_memory() const { return takes_device_memory_ && !devices_.empty(); }
  // Any thread. Its devices have failed: it answers nothing any more.
  bool broken() const { return lanes_ && lanes_->broken(); }
  // Any thread. What has become of the graphs that were asked for.
  GraphUse graphs() const;
  bool runs_inline() const { return inline_.load(std::memory_order_relaxed); }
  Duration load_time() const { return load_time_; }
  // Any thread. The weights, for another servable over them; null once this one is closed.
  std::shared_ptr<Runner> runner() const;

  // Any thread, one at a time, and only before the loop thread knows of the servable. Runs a
  // serialized tensorflow.serving.PredictRequest, whatever model it names, `runs` times, and
  // forgets the answers.
  Status warm_up_with(std::span<const std::byte> predict_request, int runs,
                      std::size_t decoded_bytes_limit);

  // Loop thread. Queues a prepared request. On OK, `*run_inline` says whether run_inline() must
  // follow.
  Status admit(Request& request, TimePoint now, bool* run_inline);
  // Loop thread. Runs everything that waits, on this thread.
  void run_inline(BatchSink& sink);
  // Loop thread. Takes a waiting request out (true: the caller disposes of it), or marks one that
  // is already running, which then comes back as cancelled or finished.
  bool cancel(Request& request);
  // True if it was waiting, and does not any more; otherwise nothing has changed.
  bool withdraw(Request& request);
  // Loop thread. Refuses what is past its deadline.
  void expire(TimePoint now, BatchSink& sink);
  TimePoint next_deadline() const;
  std::size_t waiting() const;
  // Loop thread. A request of this servable was answered or dropped.
  void answered();
  // For Lease: close() waits until every holder has let go. Loop thread, while requests may be
  // admitted.
  void hold();
  // Any thread.
  void let_go();

  // Loop thread.
  ServableStats& stats() { return stats_; }
  // Admitted and not yet answered.
  std::int64_t in_flight() const {
    return in_flight_.load(std::memory_order_relaxed) - held_.load(std::memory_order_relaxed);
  }
  // Loop thread. Whether answers with NaN or infinity are counted from now on: every output is
  // read once more for it, on the thread that ran the model.
  void watch_outputs(bool watched) { watched_.store(watched, std::memory_order_relaxed); }

  // Waits until every admitted request has been answered and every lease is released, joins the
  // instances and frees the model. Nothing may be admitted any more. The loop thread must go on
  // running meanwhile, so it must not call this unless nothing is in flight.
  void close();

 private:
  Servable(std::string name, std::int64_t version, std::shared_ptr<Runner> runner,
           const ServableOptions& options, const ServableContext& context);
  Status settle_signature();
  Status prepare();
  void warm_up();
  Status make_zeros(std::int64_t rows, Request& request) const;
  std::vector<std::uint32_t> warm_up_sizes() const;
  Result<Duration> run_zeros(std::int64_t rows);
  Result<Duration> run_once(Request& request);
  void apply_policy();
  Status start_instances();
  Status start_lanes();
  std::vector<std::int64_t> row_buckets() const;
  // On a launching thread whose lanes are free.
  Status warm_up(LaneExecutor& executor) const;
  Status warm_up_with(LaneExecutor& executor, const Request& request, int runs) const;
  // Runs two rows apart and together, if nobody has said that they may be.
  bool seems_to_mix_rows(const RunRows& run) const;
  Status check_rows_on_lanes();
  void keep_requests_apart();
  // Measures whether batches of changing sizes cost so much that they are better filled up.
  Status decide_filling(LaneExecutor& executor) const;
  // The best time of so many lanes; 0: of all.
  Result<Duration> run_on_lanes(LaneExecutor& executor, const Request& request, std::int64_t rows,
                                bool may_capture, int lanes = 0) const;
  void instance_main(BatchRunner& runner);
  void run_waiting(BatchSink& sink);
  void observe_run(Duration duration);
  // Loop thread: moves an "auto" servable between the loop and its threads as measurement says.
  void reconsider_execution();

  const std::string name_;
  const std::int64_t version_;
  const std::string version_text_;
  std::shared_ptr<Runner> runner_;  // close() clears it under mutex_
  const std::string platform_;
  const std::vector<DeviceId> devices_;
  const bool takes_device_memory_;
  const ServableOptions options_;
  const ServableContext context_;
  Signature signature_;
  bool rows_depend_ = false;
  QuietWork quiet_;
  int max_batch_size_ = 1;
  int instances_ = 1;
  Duration load_time_{0};

  mutable std::mutex mutex_;
  std::condition_variable work_;
  batching::Queue queue_;  // guarded by mutex_
  int sleepers_ = 0;       // guarded by mutex_
  bool stopping_ = false;  // guarded by mutex_

  std::atomic<bool> inline_{false};
  std::atomic<bool> watched_{false};
  std::atomic<std::int64_t> mean_run_ns_{0};
  std::atomic<std::uint32_t> runs_{0};

  std::atomic<std::int64_t> in_flight_{0};  // what close() waits for: requests, and
  std::atomic<std::int64_t> held_{0};       // leases
  std::atomic<bool> closing_{false};
  std::condition_variable idle_;

  std::unique_ptr<BatchRunner> loop_runner_;  // the loop thread's, like these two
  std::unique_ptr<Batch> loop_batch_;
  std::unique_ptr<Batch> loop_expired_;
  std::vector<std::unique_ptr<BatchRunner>> instance_runners_;
  std::vector<std::jthread> threads_;
  std::unique_ptr<LaneGroup> lanes_;  // where the runner launches; then there are no others
  ServableStats stats_;
};

}  // namespace servolley::engine
