#include "engine/shadow.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

namespace servolley::engine {
namespace {

constexpr std::uint32_t kWhole = 1'000'000;
constexpr std::uint32_t kLargestRing = 1 << 16;
// Linux keeps niceness per thread; going down needs no privilege.
constexpr int kLowestPriority = 19;

std::optional<std::uint32_t> find(const std::vector<TensorSpec>& specs, const std::string& name,
                                  std::size_t likely) {
  if (likely < specs.size() && specs[likely].name == name) {
    return static_cast<std::uint32_t>(likely);
  }
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == name) return static_cast<std::uint32_t>(i);
  }
  return std::nullopt;
}

// A model that runs on a device by itself, waited for.
class WaitingExecutor final : public Executor {
 public:
  explicit WaitingExecutor(std::unique_ptr<LaneExecutor> lane) : lane_(std::move(lane)) {}
  Status run(std::span<const TensorView> inputs, std::int64_t rows,
             std::span<OutputTensor> outputs) override {
    parts_.clear();
    for (const TensorView& view : inputs) parts_.push_back({.view = view});
    SERVOLLEY_TRY(lane_->launch(0, {.parts = parts_, .requests = 1, .rows = rows}));
    return lane_->wait(0, outputs);
  }

 private:
  std::unique_ptr<LaneExecutor> lane_;
  std::vector<InputPart> parts_;
};

Result<std::unique_ptr<Executor>> executor_of(Runner& runner) {
  if (runner.devices().empty()) return runner.create_executor();
  auto lane = runner.create_lanes(0, {.lanes = 1, .row_buckets = {}});
  if (!lane) return std::move(lane).error();
  return std::unique_ptr<Executor>(std::make_unique<WaitingExecutor>(std::move(*lane)));
}

}  // namespace

void Shadow::Sample::clear() {
  infer.clear();
  body.reset();
  expected.clear();
  held_bytes = 0;
}

Shadow::Shadow(std::shared_ptr<Servable> servable, const ShadowOptions& options, Pool& pool)
    : servable_(std::move(servable)),
      runner_(servable_->runner()),
      signature_(servable_->signature()),
      options_(options),
      pool_(pool),
      capacity_(std::bit_ceil(std::clamp(options.max_in_flight, 1U, kLargestRing))),
      ring_(std::make_unique<Sample[]>(capacity_)),
      thread_([this] { main(); }) {}

bool Shadow::due() {
  credit_ += options_.fraction_ppm;
  if (credit_ < kWhole) return false;
  credit_ -= kWhole;
  return true;
}

void Shadow::take(const Request& request, std::span<const codec::OutputView> outputs) {
  if (retired_) return;
  const std::uint32_t place = written_.load(std::memory_order_relaxed);
  const std::uint32_t in_flight = place - done_.load(std::memory_order_acquire);
  if (in_flight >= std::min(options_.max_in_flight, capacity_)) {
    ++dropped_;
    return;
  }
  Sample& sample = at(place);
  if (!fill(sample, request, outputs)) {
    ++incompatible_;
    return sample.clear();
  }
  if (held_bytes_.load(std::memory_order_relaxed) + sample.held_bytes > options_.max_bytes) {
    ++dropped_;
    return sample.clear();
  }
  held_bytes_.fetch_add(sample.held_bytes, std::memory_order_relaxed);
  ++taken_;
  written_.store(place + 1, std::memory_order_release);
  wake();
}

bool Shadow::fill(Sample& sample, const Request& request,
                  std::span<const codec::OutputView> outputs) {
  const Signature& theirs = request.servable->signature();
  // Whole blocks count, though others may hold them too: it is what the pool cannot have back.
  sample.held_bytes = request.body.capacity();
  for (std::size_t i = 0; i < signature_.inputs.size(); ++i) {
    const auto index = find(theirs.inputs, signature_.inputs[i].name, i);
    if (!index) return false;
    const codec::InputTensor& from = request.infer.inputs[*index];
    if (from.shared && !from.owner)
      return false;  // read where it lies, which the client may change
    // What lies on a device is its client's, who may change it once he has the answer.
    const bool ours = from.device.kind == DeviceKind::kCpu;
    if (!ours || from.view.dtype != signature_.inputs[i].dtype ||
        !signature_.check_input(static_cast<std::uint32_t>(i), from.view.shape, servable_->name())
             .ok()) {
      return false;
    }
    sample.held_bytes += from.owner.capacity();
    sample.infer.inputs.push_back({from.view, from.owner.share()});
  }
  sample.body = request.body.share();
  bool any = false;
  for (std::size_t o = 0; o < signature_.outputs.size(); ++o) {
    auto& expected = sample.expected.emplace_back();
    const auto index = find(theirs.outputs, signature_.outputs[o].name, o);
    if (!index) continue;
    const codec::OutputView& from = outputs[*index];
    if (from.view.bytes > 0 && !*from.owner) return false;
    sample.held_bytes += from.owner->capacity();
    expected.emplace(OutputTensor{.view = from.view, .owner = from.owner->share()});
    any = true;
  }
  prepare_for_batching(sample, signature_.batched);
  return any;
}

void Shadow::wake() {
  signal_.fetch_add(1, std::memory_order_release);
  signal_.notify_one();
}

void Shadow::main() {
  (void)::setpriority(PRIO_PROCESS, static_cast<id_t>(::gettid()), kLowestPriority);
  const auto runner = make_runner();
  for (;;) {
    const std::uint32_t seen = signal_.load(std::memory_order_acquire);
    if (stopping_.load(std::memory_order_relaxed)) return;
    const std::uint32_t first = done_.load(std::memory_order_relaxed);
    const std::uint32_t waiting = written_.load(std::memory_order_acquire) - first;
    if (waiting == 0) {
      signal_.wait(seen, std::memory_order_acquire);
      continue;
    }
    std::uint32_t count = waiting;
    if (runner) {
      auto batch = batches_.acquire();
      count = take_batch(first, waiting, *batch);
      runner->run(std::move(batch), *this);
    } else {
      failed_.add(count);
    }
    drop(first, count);
  }
}

std::unique_ptr<BatchRunner> Shadow::make_runner() {
  if (!runner_) return nullptr;  // the servable was closed before we came
  auto executor = executor_of(*runner_);
  if (!executor) return nullptr;
  return std::make_unique<BatchRunner>(signature_, std::move(*executor), pool_, batches_);
}

std::uint32_t Shadow::take_batch(std::uint32_t first, std::uint32_t waiting, Batch& batch) {
  const auto limit = static_cast<std::uint32_t>(std::max(1, servable_->max_batch_size()));
  const Request& head = at(first);
  std::uint32_t rows = 0;
  std::uint32_t count = 0;
  while (count < waiting) {
    Request& next = at(first + count);
    const bool fits = !head.alone && !next.alone && next.shape_hash == head.shape_hash &&
                      std::ranges::equal(next.shape_key, head.shape_key) &&
                      next.rows <= limit - std::min(rows, limit);
    if (count > 0 && !fits) break;
    batch.items.push_back(&next);
    rows += next.rows;
    ++count;
  }
  batch.taken = Clock::now();
  return count;
}

void Shadow::drop(std::uint32_t first, std::uint32_t count) {
  for (std::uint32_t i = 0; i < count; ++i) {
    Sample& sample = at(first + i);
    held_bytes_.fetch_sub(sample.held_bytes, std::memory_order_relaxed);
    sample.clear();
  }
  done_.store(first + count, std::memory_order_release);
}

void Shadow::finished(std::unique_ptr<Batch> batch) {
  if (!batch->status.ok()) {
    failed_.add(batch->items.size());
  } else {
    for (std::size_t i = 0; i < batch->items.size(); ++i) {
      const Sample& sample = static_cast<const Sample&>(batch->request(i));
      for (std::size_t o = 0; o < sample.expected.size(); ++o) {
        const auto& expected = sample.expected[o];
        if (expected) compare_output(expected->view, rows_of(*batch, o, i), comparison_);
      }
      rows_.add(sample.rows);
    }
    compared_.add(batch->items.size());
    max_abs_error_.set(comparison_.max_abs_error);
    max_rel_error_.set(comparison_.max_rel_error);
    label_flips_.set(comparison_.label_flips);
    unequal_rows_.set(comparison_.unequal_rows);
    nonfinite_.set(comparison_.nonfinite);
    shape_mismatches_.set(comparison_.shape_mismatches);
  }
  batches_.release(std::move(batch));
}

ShadowStats Shadow::stats() const {
  ShadowStats stats;
  stats.taken = taken_;
  stats.dropped = dropped_;
  stats.incompatible = incompatible_;
  stats.compared = compared_.get();
  stats.failed = failed_.get();
  stats.rows = rows_.get();
  stats.in_flight =
      written_.load(std::memory_order_relaxed) - done_.load(std::memory_order_acquire);
  stats.comparison = {.max_abs_error = max_abs_error_.get(),
                      .max_rel_error = max_rel_error_.get(),
                      .label_flips = label_flips_.get(),
                      .unequal_rows = unequal_rows_.get(),
                      .nonfinite = nonfinite_.get(),
                      .shape_mismatches = shape_mismatches_.get()};
  return stats;
}

void Shadow::close() {
  if (!thread_.joinable()) return;
  stopping_.store(true, std::memory_order_relaxed);
  wake();
  thread_.join();
  const std::uint32_t first = done_.load(std::memory_order_relaxed);
  drop(first, written_.load(std::memory_order_acquire) - first);
}

}  // namespace servolley::engine
