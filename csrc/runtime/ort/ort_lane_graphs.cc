// Which batches run with graphs, which are filled up to one of a few sizes, and what becomes of
// captures that fail.

#include <algorithm>
#include <mutex>
#include <span>
#include <utility>

#include "runtime/ort/ort_lane_executor.h"

namespace servolley::ort {
namespace {

// A capture may fail for once, be it that the batch is to blame or what another thread did just
// then; each may leave something behind in the runtime.
constexpr int kCaptureAttempts = 2;

// Whether the shapes agree in all dimensions, or where there is a batch dimension in all others.
bool same_but_for_rows(const Shape& a, const Shape& b, bool batched) {
  const auto rows = batched ? 1 : 0;
  return a.rank() == b.rank() && static_cast<int>(a.rank()) >= rows &&
         std::equal(a.dims().begin() + rows, a.dims().end(), b.dims().begin() + rows);
}

}  // namespace

// Whatever else got into the stream while one captures would be captured, too.
OrtLaneExecutor::StreamLocks OrtLaneExecutor::lock_stream(const Lane& lane) const {
  GpuSession& session = *model_->gpu();
  if (!session.made_with_graphs) return {};
  if (lane.used->graph && !lane.used->captured) {
    return {.alone = std::unique_lock(session.capturing), .together = {}};
  }
  return {.alone = {}, .together = std::shared_lock(session.capturing)};
}

Status OrtLaneExecutor::retry_plainly(Lane& lane, const LaunchedBatch& batch, const Status& why) {
  Binding& bucket = *lane.used;
  const bool run_failed = lane.run_failed;
  const bool replayed = bucket.captured;
  settle(lane);  // what is under way is queued from the same memory again
  if (broken()) return gpu().device->health();
  lane.used = &lane.bindings.front();
  lane.used->rows = 0;
  Status plain = queue_up(lane, batch);
  if (!bucket.graph) {
    if (plain.ok() && std::exchange(filling_, false)) {
      log(abi::kWarning,
          model_->options().name + ": batches are not filled up any more: " + why.message());
    }
    return plain;
  }
  // Otherwise the graph is not to blame: memory was short, say.
  if (run_failed && plain.ok()) {
    if (replayed) {
      refuse_graphs(why.message());
    } else {
      count_failed_capture(bucket, why.message());
    }
  } else if (run_failed && bucket.failed_captures >= kCaptureAttempts) {
    refuse_graphs(why.message());
  }
  // Another batch may settle them.
  if (!any_captured()) graph_shapes_.clear();
  return plain;
}

void OrtLaneExecutor::count_failed_capture(Binding& bucket, const std::string& why) {
  ++failed_captures_;
  if (failed_captures_ < kCaptureAttempts && bucket.failed_captures < kCaptureAttempts) return;
  if (!any_captured()) return refuse_graphs(why);
  bucket.given_up = true;
  log(abi::kWarning, model_->options().name + ": no CUDA graph for batches of " +
                         std::to_string(bucket.rows) + " rows: " + why);
}

bool OrtLaneExecutor::any_captured() const {
  return std::any_of(lanes_.begin(), lanes_.end(), [](const Lane& lane) {
    return std::any_of(lane.bindings.begin(), lane.bindings.end(),
                       [](const Binding& binding) { return binding.captured; });
  });
}

void OrtLaneExecutor::refuse_graphs(const std::string& why) {
  if (model_->gpu()->graphs.exchange(false)) {
    log(abi::kWarning, model_->options().name + ": no CUDA graphs: " + why);
  }
}

OrtLaneExecutor::Binding& OrtLaneExecutor::choose(Lane& lane, const LaunchedBatch& batch) {
  if (!plans_hold_ || !model_->gpu()->graphs) return plainly(lane, batch);
  for (Binding& binding : std::span(lane.bindings).subspan(1)) {
    const bool has_room = binding.rows >= batch.rows && (binding.rows > 0) == (batch.rows > 0);
    if (!has_room || binding.given_up) continue;
    if (binding.captured || batch.may_capture) {
      if (fits_graphs(batch)) return binding;
      break;
    }
    return plainly(lane, batch);
  }
  if (batch.may_capture) say_what_does_not_fit(batch);
  return plainly(lane, batch);
}

OrtLaneExecutor::Binding& OrtLaneExecutor::plainly(Lane& lane, const LaunchedBatch& batch) {
  Binding& any = lane.bindings.front();
  any.rows = filling_ && plans_hold_ ? rows_to_fill(batch.rows) : 0;
  return any;
}

std::int64_t OrtLaneExecutor::rows_to_fill(std::int64_t rows) {
  const auto next = std::lower_bound(row_sizes_.begin(), row_sizes_.end(), rows);
  if (rows == 0 || next == row_sizes_.end()) return 0;
  // The last batch's size once more costs no change. Twice the rows is more than that is worth.
  if (filled_to_ < rows || filled_to_ > 2 * *next) filled_to_ = *next;
  return filled_to_;
}

bool OrtLaneExecutor::fits_graphs(const LaunchedBatch& batch) {
  if (graph_shapes_.empty()) {
    for (std::size_t i = 0; i < inputs_.size(); ++i) {
      Shape& shape = graph_shapes_.emplace_back(batch.input(i).front().view.shape);
      if (batch.rows > 0) shape[0] = -1;
    }
  }
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    const Shape& shape = batch.input(i).front().view.shape;
    if (!same_but_for_rows(graph_shapes_[i], shape, batch.rows > 0)) return false;
  }
  return true;
}

void OrtLaneExecutor::say_what_does_not_fit(const LaunchedBatch& batch) {
  if (std::exchange(misfit_logged_, true)) return;
  std::string text =
      model_->options().name + ": batches that fit none of its CUDA graphs run without";
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    text += (i ? ", '" : ": '") + inputs_[i].name + "' " + batch.outline(i).shape.to_string();
    if (!graph_shapes_.empty()) text += " (captured: " + graph_shapes_[i].to_string() + ")";
  }
  log(abi::kWarning, text);
}

Status OrtLaneExecutor::end_capture(Binding& bucket) {
  ++bucket.failed_captures;
  if (Status ended = compute().end_capture(); !ended.ok()) {
    gpu().device->give_up(ended);
    return ended;
  }
  // The runtime may have stored what there was of the graph, and would replay it.
  auto fresh = make_run_options(true);
  if (!fresh) return std::move(fresh).error();
  bucket.run_options = std::move(*fresh);
  return {};
}

}  // namespace servolley::ort
