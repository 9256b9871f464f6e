#include "engine/batch_runner.h"

#include <cstring>
#include <exception>

#include "engine/shared_tensors.h"

namespace servolley::engine {

BatchRunner::BatchRunner(const Signature& signature, std::unique_ptr<Executor> executor, Pool& pool,
                         BatchPool& batches, const std::atomic<bool>* watched)
    : signature_(signature),
      executor_(std::move(executor)),
      pool_(pool),
      batches_(batches),
      watched_(watched),
      views_(signature.inputs.size()),
      gathered_(signature.inputs.size()) {}

void BatchRunner::run(std::unique_ptr<Batch> batch, BatchSink& sink) {
  last_run_ = Duration::zero();
  drop_cancelled(*batch, batches_, sink);
  if (batch->items.empty()) {
    batches_.release(std::move(batch));
    return;
  }
  run_or_bisect(std::move(batch), sink);
}

void BatchRunner::rehearse(std::unique_ptr<Batch> batch, BatchSink& sink) {
  executor_->rehearse(true);
  run(std::move(batch), sink);
  executor_->rehearse(false);
}

void BatchRunner::run_or_bisect(std::unique_ptr<Batch> batch, BatchSink& sink) {
  Status status;
  try {
    status = execute(*batch);
  } catch (const std::exception& error) {
    status = internal_error(std::string("the runtime failed: ") + error.what());
  } catch (...) {
    status = internal_error("the runtime failed");
  }
  batch->executed = status.ok();
  if (watched_ && status.ok() && watched_->load(std::memory_order_relaxed)) {
    batch->nonfinite = count_nonfinite(*batch);
  }
  if (status.ok() || batch->items.size() == 1) {
    batch->status = std::move(status);
    batch->failure = FailureReason::kBackend;
    if (!batch->status.ok()) batch->outputs.clear();
    sink.finished(std::move(batch));
    return;
  }
  run_or_bisect(split(*batch, batches_), sink);
  run_or_bisect(std::move(batch), sink);
}

Status BatchRunner::execute(Batch& batch) {
  batch.number_rows();
  Status status = read_pending(batch);
  for (std::size_t i = 0; i < views_.size() && status.ok(); ++i) {
    status = gather(batch, i, views_[i]);
  }
  batch.inputs_ready = batch.run_end = Clock::now();
  if (status.ok()) {
    batch.outputs.resize(signature_.outputs.size());
    const bool shared = signature_.batched && !batch.items.front()->alone;
    status = executor_->run(views_, shared ? batch.rows : 0, batch.outputs);
    batch.run_end = Clock::now();
    last_run_ += batch.run_end - batch.inputs_ready;
  }
  for (Buffer& buffer : gathered_) buffer.reset();
  if (status.ok() && batch.items.size() > 1) status = index_outputs(signature_, batch);
  if (status.ok()) deliver_to_devices(batch);
  return status;
}

Status BatchRunner::gather(const Batch& batch, std::size_t input, TensorView& view) {
  view = batch.request(0).infer.inputs[input].view;
  if (batch.items.size() == 1) return {};
  std::size_t bytes = 0;
  for (std::size_t i = 0; i < batch.items.size(); ++i) {
    bytes += batch.request(i).infer.inputs[input].view.bytes;
  }
  auto buffer = pool_.allocate(bytes);
  if (!buffer) return std::move(buffer).error();
  std::byte* to = buffer->data();
  for (std::size_t i = 0; i < batch.items.size(); ++i) {
    const TensorView& from = batch.request(i).infer.inputs[input].view;
    if (from.bytes) std::memcpy(to, from.data, from.bytes);
    to += from.bytes;
  }
  gathered_[input] = std::move(*buffer);
  view.data = gathered_[input].data();
  view.bytes = bytes;
  view.shape[0] = batch.rows;
  return {};
}

}  // namespace servolley::engine
