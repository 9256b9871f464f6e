// What a servable runs before the first request: batches of zeros of every size that matters, and
// requests that somebody has declared.

#include <algorithm>
#include <cstring>
#include <functional>

#include "codec/tfs_proto.h"
#include "engine/request.h"
#include "engine/servable.h"

namespace servolley::engine {
namespace {

// One row is run a few times, because the best of them decides where the model runs.
constexpr int kRuns = 7;
constexpr Duration kRunsBudget = std::chrono::seconds(1);
// What larger batches may take, as one row's time lets expect: they are the first to be left out.
constexpr Duration kSizesBudget = std::chrono::seconds(3);
// On a device the first run loads what the later ones find.
constexpr int kLaneRuns = 2;
// What a batch of another size than the last may cost without being filled up.
constexpr Duration kDearChange = std::chrono::milliseconds(1);

// Keeps what a warm-up run finishes away from the loop.
class WarmUpSink final : public BatchSink {
 public:
  explicit WarmUpSink(BatchPool& pool) : pool_(pool) {}
  void finished(std::unique_ptr<Batch> batch) override {
    status = batch->status;
    pool_.release(std::move(batch));
  }
  Status status;

 private:
  BatchPool& pool_;
};

// Whether zeros have the shapes that requests will have: no dimension but the batch's is free.
bool tells_shapes(const Signature& signature) {
  for (const TensorSpec& spec : signature.inputs) {
    if (!spec.rank_known) return false;
    for (std::size_t i = signature.batched ? 1 : 0; i < spec.shape.rank(); ++i) {
      if (spec.shape[i] < 0) return false;
    }
  }
  return true;
}

// The first `rows` of a request's rows.
InputPart first_rows(const codec::InputTensor& input, std::int64_t rows, std::int64_t of) {
  InputPart part{.view = input.view, .pinned = input.owner.pinned()};
  if (rows == of) return part;
  part.view.shape[0] = rows;
  part.view.bytes = part.view.bytes / static_cast<std::size_t>(of) * static_cast<std::size_t>(rows);
  return part;
}

}  // namespace

Status Servable::make_zeros(std::int64_t rows, Request& request) const {
  for (const TensorSpec& spec : signature_.inputs) {
    codec::InputTensor input;
    input.view.dtype = spec.dtype;
    for (std::size_t i = 0; i < spec.shape.rank(); ++i) {
      const bool batch_dim = i == 0 && signature_.batched;
      input.view.shape.push_back(batch_dim ? rows : std::max<std::int64_t>(spec.shape[i], 1));
      if (spec.shape[i] == 0) input.view.shape[i] = 0;
    }
    // A BYTES element of no length is four zero bytes, the size of an FP32.
    const DType sized = spec.dtype == DType::kBytes ? DType::kFp32 : spec.dtype;
    const auto bytes = input.view.shape.byte_count(sized);
    if (!bytes) return invalid_argument("input '" + spec.name + "' is too large to warm up");
    auto buffer = context_.pool.allocate(*bytes);
    if (!buffer) return std::move(buffer).error();
    std::fill_n(buffer->data(), *bytes, std::byte{0});
    input.view.data = buffer->data();
    input.view.bytes = *bytes;
    input.owner = std::move(*buffer);
    request.infer.inputs.push_back(std::move(input));
  }
  prepare_for_batching(request, signature_.batched);
  return {};
}

Result<Duration> Servable::run_once(Request& request) {
  auto batch = context_.batches.acquire();
  batch->items.push_back(&request);
  WarmUpSink sink(context_.batches);
  loop_runner_->rehearse(std::move(batch), sink);
  if (!sink.status.ok()) return sink.status;
  return loop_runner_->last_run();
}

Result<Duration> Servable::run_zeros(std::int64_t rows) {
  Request request;
  SERVOLLEY_TRY(make_zeros(rows, request));
  return run_once(request);
}

std::vector<std::uint32_t> Servable::warm_up_sizes() const {
  if (!signature_.batched) return {};
  const auto limit = static_cast<std::uint32_t>(max_batch_size_);
  std::vector<std::uint32_t> sizes = options_.preferred_batch_sizes;
  sizes.insert(sizes.end(), options_.warmup_rows.begin(), options_.warmup_rows.end());
  sizes.push_back(limit);
  std::erase_if(sizes, [&](std::uint32_t rows) { return rows < 2 || rows > limit; });
  std::sort(sizes.begin(), sizes.end());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  return sizes;
}

bool Servable::seems_to_mix_rows(const RunRows& run) const {
  if (!signature_.batched || !max_batch_inferred()) return false;
  return check_rows(signature_, context_.pool, run) == RowCheck::kDependent;
}

void Servable::keep_requests_apart() {
  rows_depend_ = true;
  signature_.batched = false;
  apply_policy();
}

void Servable::warm_up() {
  // Free dimensions are guessed as 1 and contents as zero, which not every model accepts: a failure
  // here says nothing about real requests, it only leaves the servable unmeasured.
  const TimePoint start = Clock::now();
  Duration best = Duration::max();
  for (int i = 0; i < kRuns && Clock::now() - start < kRunsBudget; ++i) {
    const auto took = run_zeros(1);
    if (!took) return;
    best = std::min(best, *took);
  }
  const bool mixes = seems_to_mix_rows([this](auto inputs, auto rows, auto outputs) {
    Executor& executor = loop_runner_->executor();
    executor.rehearse(true);
    Status status = executor.run(inputs, rows, outputs);
    executor.rehearse(false);
    return status;
  });
  if (mixes) keep_requests_apart();
  const TimePoint sizes_start = Clock::now();
  for (const std::uint32_t rows : warm_up_sizes()) {
    if (Clock::now() - sizes_start + best * rows > kSizesBudget) break;
    if (!run_zeros(rows)) break;
  }
  mean_run_ns_.store(to_ns(best));
  if (options_.execution == Execution::kAuto && options_.max_queue_delay_us == 0) {
    inline_.store(best < std::chrono::microseconds(options_.inline_threshold_us));
  }
}

Status Servable::warm_up_with(std::span<const std::byte> predict_request, int runs,
                              std::size_t decoded_bytes_limit) {
  const codec::DecodeContext context{.signature = signature_,
                                     .model = name_,
                                     .pool = context_.pool,
                                     .decoded_bytes_limit = decoded_bytes_limit};
  Request request;
  SERVOLLEY_TRY(codec::decode_tfs_proto(predict_request, context, request.infer));
  for (codec::InputTensor& input : request.infer.inputs) {
    // What lies in the message lies anywhere in it, and a model wants its tensors aligned.
    if (input.owner || input.view.bytes == 0) continue;
    auto buffer = context_.pool.allocate(input.view.bytes);
    if (!buffer) return std::move(buffer).error();
    std::memcpy(buffer->data(), input.view.data, input.view.bytes);
    input.view.data = buffer->data();
    input.owner = std::move(*buffer);
  }
  prepare_for_batching(request, signature_.batched);
  if (lanes_) {
    return lanes_->run_on_launchers(
        [&](LaneExecutor& executor) { return warm_up_with(executor, request, runs); });
  }
  Status status;
  quiet_.run([&] {
    for (int i = 0; i < runs && status.ok(); ++i) {
      const auto took = run_once(request);
      if (!took) status = took.error();
    }
  });
  return status;
}

// The request's rows, repeated or cut until there are `rows`, as one batch in every lane. The
// shortest time that one took.
Result<Duration> Servable::run_on_lanes(LaneExecutor& executor, const Request& request,
                                        std::int64_t rows, bool may_capture, int lanes) const {
  std::vector<InputPart> parts;
  for (const codec::InputTensor& input : request.infer.inputs) {
    for (std::int64_t left = rows; left > 0; left -= request.rows) {
      parts.push_back(first_rows(input, std::min<std::int64_t>(left, request.rows), request.rows));
    }
  }
  const LaunchedBatch batch{
      .parts = parts,
      .requests = static_cast<std::size_t>((rows + request.rows - 1) / request.rows),
      .rows = request.alone ? 0 : rows,
      .may_capture = may_capture};
  Duration best = Duration::max();
  for (int lane = 0; lane < (lanes ? lanes : executor.lanes()); ++lane) {
    const TimePoint start = Clock::now();
    std::vector<OutputTensor> outputs(signature_.outputs.size());
    SERVOLLEY_TRY(executor.launch(lane, batch));
    SERVOLLEY_TRY(executor.wait(lane, outputs));
    best = std::min(best, Clock::now() - start);
  }
  return best;
}

Status Servable::decide_filling(LaneExecutor& executor) const {
  if (options_.filling != Filling::kAuto || !signature_.batched || max_batch_size_ < 3) return {};
  const auto run = [&](std::int64_t rows) -> Result<Duration> {
    Request request;
    SERVOLLEY_TRY(make_zeros(rows, request));
    return run_on_lanes(executor, request, rows, false, 1);
  };
  // By turns of few rows, so that the work itself does not hide what a change costs.
  Duration same = Duration::max();
  Duration changed = Duration::max();
  std::int64_t last = 0;
  for (const std::int64_t rows : {3, 2, 2, 2, 3, 2, 3, 2}) {
    const auto took = run(rows);
    if (!took) return executor.broken() ? took.error() : Status();
    Duration& best = rows == last ? same : changed;
    best = std::min(best, *took);
    last = rows;
  }
  executor.fill_up(changed > 2 * same && changed - same > kDearChange);
  return {};
}

Status Servable::warm_up(LaneExecutor& executor) const {
  // As on the CPU, a model that does not take zeros is none the worse for it, and neither is one
  // for which there is no memory now; a device that fails is.
  const bool may_capture = tells_shapes(signature_);
  const auto run_zeros_on_lanes = [&](std::int64_t rows) -> Result<Duration> {
    Request request;
    SERVOLLEY_TRY(make_zeros(rows, request));
    return run_on_lanes(executor, request, rows, may_capture);
  };
  Duration best = Duration::max();
  for (int i = 0; i < kLaneRuns; ++i) {
    const auto took = run_zeros_on_lanes(1);
    if (!took) return executor.broken() ? took.error() : Status();
    best = std::min(best, *took);
  }
  std::vector<std::int64_t> sizes = row_buckets();
  for (const std::uint32_t rows : warm_up_sizes()) sizes.push_back(rows);
  // From the largest down, so that no lane's memory has to grow twice.
  std::sort(sizes.begin(), sizes.end(), std::greater<>());
  sizes.erase(std::unique(sizes.begin(), sizes.end()), sizes.end());
  const TimePoint start = Clock::now();
  for (const std::int64_t rows : sizes) {
    if (rows < 2 || Clock::now() - start + best * rows * executor.lanes() > kSizesBudget) continue;
    const auto took = run_zeros_on_lanes(rows);
    if (!took && executor.broken()) return took.error();
  }
  return decide_filling(executor);
}

Status Servable::warm_up_with(LaneExecutor& executor, const Request& request, int runs) const {
  Duration best = Duration::max();
  for (int i = 0; i < runs; ++i) {
    const auto took = run_on_lanes(executor, request, request.rows, true);
    if (!took) return took.error();
    best = std::min(best, *took);
  }
  // Graphs whose shapes zeros do not tell are captured with this request's, for every size. That
  // there is no memory for one of them does not fail the request.
  const GraphUse use = graphs();
  const bool wanted = use == GraphUse::kOn || use == GraphUse::kNotYet;
  if (!wanted || runs <= 0 || request.alone || tells_shapes(signature_)) return {};
  const TimePoint start = Clock::now();
  for (const std::int64_t rows : row_buckets()) {
    const auto expected = best / request.rows * rows * executor.lanes();
    if (rows == request.rows || Clock::now() - start + expected > kSizesBudget) continue;
    const auto took = run_on_lanes(executor, request, rows, true);
    if (!took && executor.broken()) return took.error();
  }
  return {};
}

}  // namespace servolley::engine
