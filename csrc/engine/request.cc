#include "engine/request.h"

#include <limits>

#include "engine/servable.h"
#include "engine/shadow.h"

namespace servolley::engine {

void prepare_for_batching(Request& request, bool batched) {
  request.key_storage.clear();
  request.bytes = 0;
  for (const auto& input : request.infer.inputs) request.bytes += input.view.bytes;
  request.rows = 1;
  request.alone = !batched;
  const auto& inputs = request.infer.inputs;
  if (!request.alone) {
    const Shape& first = inputs.front().view.shape;
    const std::int64_t rows = first.rank() ? first[0] : 0;
    // Zero rows have nothing to share, and a count beyond 32 bits is no batch that anyone waits
    // for.
    request.alone = rows <= 0 || rows > std::numeric_limits<std::uint32_t>::max();
    for (const auto& input : inputs) {
      const Shape& shape = input.view.shape;
      if (shape.rank() == 0 || shape[0] != rows) request.alone = true;
    }
    if (!request.alone) request.rows = static_cast<std::uint32_t>(rows);
  }
  if (request.alone) {
    request.shape_key = {};
    request.shape_hash = 0;
    return;
  }
  for (const auto& input : inputs) {
    const auto dims = input.view.shape.dims();
    request.key_storage.push_back(static_cast<std::int64_t>(dims.size()));
    request.key_storage.insert(request.key_storage.end(), dims.begin() + 1, dims.end());
  }
  request.shape_key = request.key_storage;
  request.shape_hash = batching::hash_shape_key(request.shape_key);
}

Request* RequestPool::acquire() {
  if (free_.empty()) {
    all_.push_back(std::make_unique<Request>());
    free_.reserve(all_.size());
    return all_.back().get();
  }
  Request* request = free_.back();
  free_.pop_back();
  return request;
}

void RequestPool::release(Request* request) {
  request->connection = nullptr;
  request->servable.reset();
  request->shadow.reset();
  request->infer.clear();
  request->body.reset();
  request->input_regions.clear();
  request->output_regions.clear();
  request->pending_reads.clear();
  request->response_coding = codec::Coding::kIdentity;
  request->sequence = 0;
  request->traced = false;
  request->cancelled.store(false, std::memory_order_relaxed);
  request->priority = 0;
  request->deadline = kNever;
  free_.push_back(request);
}

}  // namespace servolley::engine
