#include "engine/servable.h"

#include <algorithm>

namespace servolley::engine {
namespace {

// Rows of a batch for models whose configuration does not name a limit.
constexpr int kInferredBatchRows = 64;
// An inline model whose batches take longer than this on average holds up the loop: it gets a
// thread.
constexpr std::int64_t kInlineCeilingNs = 1'000'000;
// What an inline batch may copy together. A model that is faster than a hand-off runs a large
// tensor in less time than copying it into a batch takes.
constexpr std::uint64_t kInlineBatchBytes = 128 << 10;
// Runs before a measurement moves a servable from one way of execution to the other.
constexpr std::uint32_t kSettledRuns = 32;

batching::Policy policy_of(const ServableOptions& options, int max_batch_size) {
  batching::Policy policy;
  policy.max_batch_rows = static_cast<std::uint32_t>(std::max(1, max_batch_size));
  policy.refuse_oversize = options.max_batch_size > 0 || options.max_batch_size_if_batchable > 0;
  policy.max_queue_size = options.max_queue_size;
  policy.max_queue_delay = std::chrono::microseconds(options.max_queue_delay_us);
  policy.preferred_rows = options.preferred_batch_sizes;
  std::sort(policy.preferred_rows.begin(), policy.preferred_rows.end());
  return policy;
}

}  // namespace

Servable::Servable(std::string name, std::int64_t version, std::shared_ptr<Runner> runner,
                   const ServableOptions& options, const ServableContext& context)
    : name_(std::move(name)),
      version_(version),
      version_text_(std::to_string(version)),
      runner_(std::move(runner)),
      platform_(runner_->platform()),
      devices_(runner_->devices().begin(), runner_->devices().end()),
      takes_device_memory_(runner_->takes_device_memory()),
      options_(options),
      context_(context),
      signature_(runner_->signature()),
      quiet_(options.load_niceness),
      queue_({}) {}

Servable::~Servable() {
  in_flight_.store(0);
  close();
}

Result<std::shared_ptr<Servable>> Servable::create(std::string name, std::int64_t version,
                                                   std::shared_ptr<Runner> runner,
                                                   const ServableOptions& options,
                                                   const ServableContext& context) {
  const TimePoint start = Clock::now();
  std::shared_ptr<Servable> servable(
      new Servable(std::move(name), version, std::move(runner), options, context));
  if (Status status = servable->prepare(); !status.ok()) return status;
  const bool started_before = options.load_started != TimePoint{};
  servable->load_time_ = Clock::now() - (started_before ? options.load_started : start);
  return servable;
}

Status Servable::settle_signature() {
  BatchDimension batch = BatchDimension::kDeclared;
  if (options_.max_batch_size > 0) {
    batch = BatchDimension::kImplied;
  } else if (options_.max_batch_size < 0 && signature_.batchable()) {
    batch = BatchDimension::kEither;
  }
  SERVOLLEY_TRY(signature_.narrow(options_.inputs, options_.outputs, batch));
  if (options_.max_batch_size > 0 && !signature_.batchable()) {
    for (const auto* side : {&signature_.inputs, &signature_.outputs}) {
      for (const TensorSpec& spec : *side) {
        if (spec.rank_known && spec.shape.rank() > 0 && spec.shape[0] == -1) continue;
        return invalid_argument("max_batch_size is " + std::to_string(options_.max_batch_size) +
                                " but tensor '" + spec.name + "' of shape " +
                                spec.shape.to_string() + " has no free first dimension");
      }
    }
  }
  signature_.batched =
      options_.max_batch_size > 0 || (options_.max_batch_size < 0 && signature_.batchable());
  if (options_.max_batch_size > 0) {
    max_batch_size_ = options_.max_batch_size;
  } else if (options_.max_batch_size_if_batchable > 0) {
    max_batch_size_ = options_.max_batch_size_if_batchable;
  } else {
    max_batch_size_ = kInferredBatchRows;
  }
  for (const auto& [output, labels] : options_.labels) {
    const auto index = signature_.output_index(output);
    if (!index) return invalid_argument("labels name an unknown output '" + output + "'");
    signature_.outputs[*index].labels = labels;
  }
  return {};
}

void Servable::apply_policy() { queue_.set_policy(policy_of(options_, max_batch_size())); }

Status Servable::prepare() {
  if (options_.execution == Execution::kInline && options_.max_queue_delay_us > 0) {
    return invalid_argument(
        "execution = inline runs whatever one loop iteration reads and cannot wait: "
        "max_queue_delay_us must be 0");
  }
  SERVOLLEY_TRY(settle_signature());
  instances_ = std::max(1, options_.instances);
  apply_policy();
  if (!runner_->devices().empty()) return start_lanes();
  auto executor = runner_->create_executor();
  if (!executor) return std::move(executor).error();
  loop_runner_ = std::make_unique<BatchRunner>(signature_, std::move(*executor), context_.pool,
                                               context_.batches, &watched_);
  inline_.store(options_.execution == Execution::kInline);
  if (options_.warmup) quiet_.run([this] { warm_up(); });
  if (!inline_.load()) SERVOLLEY_TRY(start_instances());
  return {};
}

Status Servable::start_instances() {
  if (!threads_.empty()) return {};
  while (instance_runners_.size() < static_cast<std::size_t>(instances_)) {
    auto executor = runner_->create_executor();
    if (!executor) return std::move(executor).error();
    instance_runners_.push_back(std::make_unique<BatchRunner>(
        signature_, std::move(*executor), context_.pool, context_.batches, &watched_));
  }
  for (auto& runner : instance_runners_) {
    threads_.emplace_back([this, &runner = *runner] { instance_main(runner); });
  }
  return {};
}

Status Servable::admit(Request& request, TimePoint now, bool* run_inline) {
  std::uint64_t timeout_us = options_.default_timeout_us;
  if (request.infer.timeout_us && *request.infer.timeout_us > 0 &&
      (options_.allow_timeout_override || timeout_us == 0)) {
    timeout_us = timeout_us == 0 ? *request.infer.timeout_us
                                 : std::min(timeout_us, *request.infer.timeout_us);
  }
  if (timeout_us > 0) {
    request.deadline = std::min(request.deadline, deadline_after(request.received, timeout_us));
  }
  if (!runs_inline()) reconsider_execution();
  *run_inline = runs_inline();
  bool wake = false;
  {
    const std::lock_guard lock(mutex_);
    if (lanes_ && lanes_->all_broken()) {
      return unavailable("the device that '" + name_ + "' runs on has failed");
    }
    Status status = queue_.admit(request, now);
    if (!status.ok()) {
      return status.code() == Code::kInvalidArgument
                 ? invalid_argument(status.message() + " for '" + name_ + "'")
                 : status;
    }
    if (lanes_) lanes_->wake();
    wake = !*run_inline && sleepers_ > 0;
  }
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  if (wake) work_.notify_one();
  return {};
}

void Servable::run_inline(BatchSink& sink) {
  // The last answer goes out from within: close() must not take anything away before this returns.
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  run_waiting(sink);
  answered();
}

void Servable::run_waiting(BatchSink& sink) {
  for (;;) {
    if (!loop_batch_) loop_batch_ = context_.batches.acquire();
    if (!loop_expired_) loop_expired_ = context_.batches.acquire();
    loop_batch_->taken = Clock::now();
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) return;  // what waited was cancelled, and the model is gone
      queue_.take(loop_batch_->taken, loop_batch_->items, loop_expired_->items, kInlineBatchBytes);
    }
    refuse_expired(loop_expired_, sink);
    if (loop_batch_->items.empty()) break;
    loop_runner_->run(std::move(loop_batch_), sink);
    observe_run(loop_runner_->last_run());
  }
  reconsider_execution();
}

void Servable::reconsider_execution() {
  if (options_.execution != Execution::kAuto || options_.max_queue_delay_us > 0 ||
      runs_.load(std::memory_order_relaxed) < kSettledRuns) {
    return;
  }
  const std::int64_t mean = mean_run_ns_.load(std::memory_order_relaxed);
  if (runs_inline() && mean > kInlineCeilingNs && start_instances().ok()) {
    inline_.store(false, std::memory_order_relaxed);
  } else if (!runs_inline() &&
             mean < static_cast<std::int64_t>(options_.inline_threshold_us) * 1000) {
    inline_.store(true, std::memory_order_relaxed);
  }
  runs_.store(0, std::memory_order_relaxed);
}

void Servable::observe_run(Duration duration) {
  // An exponential mean over about sixteen batches; racing instances may lose an update, which is
  // fine.
  const std::int64_t mean = mean_run_ns_.load(std::memory_order_relaxed);
  mean_run_ns_.store(mean + (to_ns(duration) - mean) / 16, std::memory_order_relaxed);
  runs_.fetch_add(1, std::memory_order_relaxed);
}

bool Servable::withdraw(Request& request) {
  const std::lock_guard lock(mutex_);
  if (!request.queued) return false;
  queue_.remove(request);
  return true;
}

bool Servable::cancel(Request& request) {
  if (withdraw(request)) return true;
  request.cancelled.store(true, std::memory_order_relaxed);
  return false;
}

void Servable::expire(TimePoint now, BatchSink& sink) {
  auto expired = context_.batches.acquire();
  {
    const std::lock_guard lock(mutex_);
    if (queue_.next_deadline() <= now) queue_.expire(now, expired->items);
  }
  if (expired->items.empty()) {
    context_.batches.release(std::move(expired));
  } else {
    refuse_expired(expired, sink);
  }
}

TimePoint Servable::next_deadline() const {
  const std::lock_guard lock(mutex_);
  return queue_.next_deadline();
}

std::size_t Servable::waiting() const {
  const std::lock_guard lock(mutex_);
  return queue_.size();
}

void Servable::answered() {
  if (in_flight_.fetch_sub(1) == 1 && closing_.load()) {
    const std::lock_guard lock(mutex_);
    idle_.notify_all();
  }
}

void Servable::hold() {
  in_flight_.fetch_add(1, std::memory_order_relaxed);
  held_.fetch_add(1, std::memory_order_relaxed);
}

void Servable::let_go() {
  held_.fetch_sub(1, std::memory_order_relaxed);
  answered();
}

void Servable::close() {
  {
    std::unique_lock lock(mutex_);
    closing_.store(true);
    idle_.wait(lock, [this] { return in_flight_.load() <= 0; });
    stopping_ = true;
  }
  work_.notify_all();
  threads_.clear();  // joins
  if (lanes_) lanes_->stop();
  instance_runners_.clear();
  loop_runner_.reset();
  std::shared_ptr<Runner> last;  // freed outside the lock
  const std::lock_guard lock(mutex_);
  last.swap(runner_);
}

GraphUse Servable::graphs() const {
  const auto loaded = runner();
  return loaded ? loaded->graphs() : GraphUse::kOff;
}

std::shared_ptr<Runner> Servable::runner() const {
  const std::lock_guard lock(mutex_);
  return runner_;
}

}  // namespace servolley::engine
