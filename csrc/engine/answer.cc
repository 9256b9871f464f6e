// How finished batches become answers and numbers. Loop thread.

#include "engine/engine.h"
#include "engine/shadow.h"
#include "engine/shared_tensors.h"

namespace servolley::engine {
namespace {

std::int64_t epoch_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::uint64_t ns_between(TimePoint from, TimePoint to) {
  return to > from ? static_cast<std::uint64_t>(to_ns(to - from)) : 0;
}

}  // namespace

void Engine::finished(std::unique_ptr<Batch> batch) { answer(std::move(batch)); }

void Engine::answer(std::unique_ptr<Batch> batch) {
  if (batch->items.empty()) {
    batches_.release(std::move(batch));
    return;
  }
  // All requests of a batch belong to one servable; it must outlive the loop below.
  const std::shared_ptr<Servable> servable = batch->request(0).servable;
  const TimePoint start = Clock::now();
  const std::uint64_t succeeded_before = servable->stats().success_count;
  for (std::size_t i = 0; i < batch->items.size(); ++i) answer_request(*batch, i, start);
  if (batch->executed) {
    ServableStats& stats = servable->stats();
    const std::uint64_t input_ns = ns_between(batch->taken, batch->inputs_ready);
    const std::uint64_t infer_ns = ns_between(batch->inputs_ready, batch->run_end);
    const std::uint64_t output_ns = ns_between(start, Clock::now());
    BatchSizeStats& size = stats.batch_of(batch->rows);
    ++size.executions;
    size.compute_input_ns += input_ns;
    size.compute_infer_ns += infer_ns;
    size.compute_output_ns += output_ns;
    ++stats.executions;
    stats.nonfinite += batch->nonfinite;
    // Triton's sums run over requests: each carries the phases of the batch that it ran in, and the
    // whole is not less than its parts.
    const std::uint64_t succeeded = stats.success_count - succeeded_before;
    stats.compute_output_ns += output_ns * succeeded;
    stats.success_ns += output_ns * succeeded;
    stats.compute_latency.observe(infer_ns);
    stats.batch_rows.observe(static_cast<std::uint64_t>(batch->rows));
    stats.last_inference_ms = epoch_ms();
  }
  batches_.release(std::move(batch));
}

void Engine::answer_request(Batch& batch, std::size_t item, TimePoint now) {
  Request& request = batch.request(item);
  Connection* connection = request.connection;
  if (!connection) {
    count_failure(request, Code::kCancelled, FailureReason::kCanceled, now);
    trace(request, &batch, Code::kCancelled, now);
    dispose(request);
    return;
  }
  connection->remove_open(request);
  Session& session = *connection->session();
  Status status = batch.status;
  FailureReason reason = batch.failure;
  if (status.ok()) {
    outputs_.clear();
    for (std::size_t o = 0; o < batch.outputs.size(); ++o) {
      const OutputTensor& output = batch.outputs[o];
      outputs_.push_back({.view = rows_of(batch, o, item),
                          .owner = &output.owner,
                          .delivered = output.delivered_to(item)});
    }
    if (request.infer.uses_shared_memory()) status = write_shared_tensors(request, outputs_);
    if (status.ok()) status = session.answer(request, outputs_, now);
    payload_.clear();  // drops the leases of what was copied
    reason = FailureReason::kOther;
  }
  if (status.ok()) {
    count_success(batch, request, now);
    if (request.shadow) request.shadow->take(request, outputs_);
  } else {
    count_failure(request, status.code(), reason, now);
    session.fail(request, status, now);
  }
  trace(request, &batch, status.code(), now);
  mark_dirty(*connection);
  dispose(request);
}

void Engine::trace(const Request& request, const Batch* batch, Code code, TimePoint answering) {
  if (!request.traced) [[likely]]
    return;
  tracer_.keep(request, batch, code, answering, Clock::now());
}

void Engine::count_success(const Batch& batch, const Request& request, TimePoint now) {
  ServableStats& stats = request.servable->stats();
  const std::uint64_t total_ns = ns_between(request.received, now);
  const std::uint64_t queue_ns = ns_between(request.admitted, batch.taken);
  ++stats.success_count;
  stats.success_ns += total_ns;
  stats.queue_ns += queue_ns;
  stats.compute_input_ns += ns_between(batch.taken, batch.inputs_ready);
  stats.compute_infer_ns += ns_between(batch.inputs_ready, batch.run_end);
  stats.inference_rows += request.rows;
  stats.request_latency.observe(total_ns);
  stats.queue_latency.observe(queue_ns);
  ++stats.responses[static_cast<std::size_t>(request.dialect)][static_cast<std::size_t>(Code::kOk)];
}

void Engine::count_failure(const Request& request, Code code, FailureReason reason, TimePoint now) {
  ServableStats& stats = request.servable->stats();
  ++stats.failures[static_cast<std::size_t>(reason)];
  stats.fail_ns += ns_between(request.received, now);
  ++stats.responses[static_cast<std::size_t>(request.dialect)][static_cast<std::size_t>(code)];
}

}  // namespace servolley::engine
