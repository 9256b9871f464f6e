#include "engine/batch.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "engine/nonfinite.h"

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

Status check_rows(const Signature& signature, const Batch& batch) {
  for (std::size_t i = 0; i < batch.outputs.size(); ++i) {
    const Shape& shape = batch.outputs[i].view.shape;
    if (shape.rank() == 0 || shape[0] != batch.rows) {
      return internal_error("output '" + signature.outputs[i].name + "' has shape " +
                            shape.to_string() + " for a batch of " + std::to_string(batch.rows) +
                            " rows: the model's first dimension is not a batch dimension");
    }
  }
  return {};
}

Status index_bytes(Batch& batch) {
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

}  // namespace

void Batch::clear() {
  items.clear();
  outputs.clear();
  for (auto& offsets : bytes_offsets) offsets.clear();
  status = {};
  failure = FailureReason::kOther;
  rows = 0;
  nonfinite = 0;
  executed = false;
  watched = false;
}

void Batch::number_rows() {
  rows = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    request(i).first_row = rows;
    rows += items[i]->rows;
  }
}

std::unique_ptr<Batch> BatchPool::acquire() {
  {
    const std::lock_guard lock(mutex_);
    if (!free_.empty()) {
      auto batch = std::move(free_.back());
      free_.pop_back();
      return batch;
    }
  }
  return std::make_unique<Batch>();
}

void BatchPool::release(std::unique_ptr<Batch> batch) {
  batch->clear();  // outside the lock: leases die here
  const std::lock_guard lock(mutex_);
  try {
    free_.push_back(std::move(batch));
  } catch (const std::bad_alloc&) {  // then it is not kept
    batch.reset();
  }
}

void refuse_expired(std::unique_ptr<Batch>& expired, BatchSink& sink) {
  if (!expired || expired->items.empty()) return;
  expired->status = Status(Code::kDeadlineExceeded, "Request timeout expired");
  expired->failure = FailureReason::kRejected;
  sink.finished(std::move(expired));
}

void drop_cancelled(Batch& batch, BatchPool& batches, BatchSink& sink) {
  const auto cancelled = [](const batching::Item* item) {
    return static_cast<const Request*>(item)->cancelled.load(std::memory_order_relaxed);
  };
  const auto count = std::count_if(batch.items.begin(), batch.items.end(), cancelled);
  if (count == 0) return;
  std::unique_ptr<Batch> dropped;
  try {
    dropped = batches.acquire();
    dropped->items.reserve(static_cast<std::size_t>(count));
    dropped->status = Status(Code::kCancelled, "the client has gone");
  } catch (const std::bad_alloc&) {  // they run along, and nobody reads their answers
    return;
  }
  std::erase_if(batch.items, [&](batching::Item* item) {
    // Full if somebody has gone since they were counted.
    const bool full = dropped->items.size() == dropped->items.capacity();
    if (full || !cancelled(item)) return false;
    dropped->items.push_back(item);
    return true;
  });
  dropped->failure = FailureReason::kCanceled;
  sink.finished(std::move(dropped));
}

std::unique_ptr<Batch> split(Batch& batch, BatchPool& batches) {
  batch.outputs.clear();
  auto first = batches.acquire();
  const auto middle = batch.items.begin() + static_cast<std::ptrdiff_t>(batch.items.size() / 2);
  first->items.assign(batch.items.begin(), middle);
  batch.items.erase(batch.items.begin(), middle);
  first->taken = batch.taken;
  return first;
}

Status index_outputs(const Signature& signature, Batch& batch) {
  SERVOLLEY_TRY(check_rows(signature, batch));
  return index_bytes(batch);
}

std::uint32_t count_nonfinite(const Batch& batch) {
  bool any = false;
  for (const OutputTensor& output : batch.outputs) any = any || has_nonfinite(output.view);
  if (!any) return 0;
  std::uint32_t requests = 0;
  for (std::size_t i = 0; i < batch.items.size(); ++i) {
    bool theirs = false;
    for (std::size_t o = 0; o < batch.outputs.size(); ++o) {
      theirs = theirs || has_nonfinite(rows_of(batch, o, i));
    }
    if (theirs) ++requests;
  }
  return requests;
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
  if (view.data) view.data += row_bytes * static_cast<std::size_t>(request.first_row);
  view.bytes = row_bytes * request.rows;
  return view;
}

}  // namespace servolley::engine
