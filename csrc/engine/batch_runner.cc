#include "engine/batch_runner.h"

#include <cstring>
#include <exception>

namespace servolley::engine {
namespace {

std::uint32_t read_u32(const std::byte* p) {
  std::uint32_t value = 0;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// Behind `count` packed BYTES elements that start at `p`; nullptr if they do not fit before `end`.
const std::byte* skip_bytes(const std::byte* p, const std::byte* end, std::int64_t count) {
  for (; count > 0; --count) {
    if (end - p < 4) return nullptr;
    const std::uint32_t length = read_u32(p);
    if (static_cast<std::size_t>(end - p - 4) < length) return nullptr;
    p += 4 + length;
  }
  return p;
}

}  // namespace

BatchRunner::BatchRunner(const Signature& signature, std::unique_ptr<Executor> executor, Pool& pool,
                         BatchPool& batches)
    : signature_(signature),
      executor_(std::move(executor)),
      pool_(pool),
      batches_(batches),
      views_(signature.inputs.size()),
      gathered_(signature.inputs.size()) {}

void BatchRunner::run(std::unique_ptr<Batch> batch, BatchSink& sink) {
  last_run_ = Duration::zero();
  drop_cancelled(*batch, sink);
  if (batch->items.empty()) {
    batches_.release(std::move(batch));
    return;
  }
  run_or_bisect(std::move(batch), sink);
}

void BatchRunner::drop_cancelled(Batch& batch, BatchSink& sink) {
  std::unique_ptr<Batch> dropped;
  std::erase_if(batch.items, [&](batching::Item* item) {
    if (!static_cast<Request*>(item)->cancelled.load(std::memory_order_relaxed)) return false;
    if (!dropped) dropped = batches_.acquire();
    dropped->items.push_back(item);
    return true;
  });
  if (!dropped) return;
  dropped->status = Status(Code::kCancelled, "the client has gone");
  dropped->failure = FailureReason::kCanceled;
  sink.finished(std::move(dropped));
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
  if (status.ok() || batch->items.size() == 1) {
    batch->status = std::move(status);
    batch->failure = FailureReason::kBackend;
    if (!batch->status.ok()) batch->outputs.clear();
    sink.finished(std::move(batch));
    return;
  }
  // One request must not fail its neighbours: run the halves apart. The second half keeps this
  // batch.
  batch->outputs.clear();
  auto first = batches_.acquire();
  const auto middle = batch->items.begin() + static_cast<std::ptrdiff_t>(batch->items.size() / 2);
  first->items.assign(batch->items.begin(), middle);
  batch->items.erase(batch->items.begin(), middle);
  first->taken = batch->taken;
  run_or_bisect(std::move(first), sink);
  run_or_bisect(std::move(batch), sink);
}

Status BatchRunner::execute(Batch& batch) {
  batch.rows = 0;
  for (std::size_t i = 0; i < batch.items.size(); ++i) {
    batch.request(i).first_row = batch.rows;
    batch.rows += batch.items[i]->rows;
  }
  Status status;
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
  if (status.ok() && batch.items.size() > 1) {
    status = check_outputs(batch);
    if (status.ok()) status = index_bytes(batch);
  }
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

Status BatchRunner::check_outputs(const Batch& batch) const {
  for (std::size_t i = 0; i < batch.outputs.size(); ++i) {
    const Shape& shape = batch.outputs[i].view.shape;
    if (shape.rank() == 0 || shape[0] != batch.rows) {
      return internal_error("output '" + signature_.outputs[i].name + "' has shape " +
                            shape.to_string() + " for a batch of " + std::to_string(batch.rows) +
                            " rows: the model's first dimension is not a batch dimension");
    }
  }
  return {};
}

Status BatchRunner::index_bytes(Batch& batch) const {
  batch.bytes_offsets.resize(batch.outputs.size());
  for (std::size_t o = 0; o < batch.outputs.size(); ++o) {
    const TensorView& view = batch.outputs[o].view;
    if (view.dtype != DType::kBytes) continue;
    const std::int64_t per_row = view.shape.row_element_count().value_or(0);
    const std::byte* const end = view.data + view.bytes;
    const std::byte* at = view.data;
    auto& offsets = batch.bytes_offsets[o];
    offsets.clear();
    for (const batching::Item* item : batch.items) {
      offsets.push_back(static_cast<std::size_t>(at - view.data));
      at = skip_bytes(at, end, per_row * item->rows);
      if (!at) return internal_error("the runtime returned a malformed string tensor");
    }
    offsets.push_back(static_cast<std::size_t>(at - view.data));
  }
  return {};
}

TensorView rows_of(const Batch& batch, std::size_t output, std::size_t item) {
  TensorView view = batch.outputs[output].view;
  if (batch.items.size() == 1) return view;
  const Request& request = batch.request(item);
  view.shape[0] = request.rows;
  if (view.dtype == DType::kBytes) {
    const auto& offsets = batch.bytes_offsets[output];
    view.data += offsets[item];
    view.bytes = offsets[item + 1] - offsets[item];
    return view;
  }
  const auto per_row = static_cast<std::size_t>(view.shape.row_element_count().value_or(0));
  const std::size_t row_bytes = per_row * element_size(view.dtype);
  view.data += row_bytes * static_cast<std::size_t>(request.first_row);
  view.bytes = row_bytes * request.rows;
  return view;
}

}  // namespace servolley::engine
