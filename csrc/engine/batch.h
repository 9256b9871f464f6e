#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "engine/request.h"
#include "runtime/runner.h"

namespace servolley::engine {

// Requests that ran together, or were refused together, on their way back to the loop thread.
struct Batch {
  std::vector<batching::Item*> items;  // Requests
  std::vector<OutputTensor>
      outputs;  // of the signature; empty unless status is OK and it was executed
  Status status;
  FailureReason failure = FailureReason::kOther;  // what a status that is not OK counts as
  // Where each request's elements start in each BYTES output: items + 1 offsets per output, empty
  // for outputs of fixed-size elements and for batches of one.
  std::vector<std::vector<std::size_t>> bytes_offsets;
  std::int64_t rows = 0;
  std::uint32_t nonfinite = 0;  // requests whose answer holds NaN or infinity, if that is watched
  bool executed = false;        // the model ran (for statistics)
  bool watched = false;         // the outputs are to be searched for NaN and infinity
  // While it is launched: its lane, and the rows that the placement counts for it.
  int lane = 0;
  std::uint64_t placed_rows = 0;
  bool lone = false;           // nothing else ran or waited then
  std::uint32_t arrivals = 0;  // how often somebody had come until then
  TimePoint taken{};
  TimePoint inputs_ready{};
  TimePoint run_end{};
  std::unique_ptr<Batch> next;  // on the way to the loop thread

  Request& request(std::size_t i) const { return *static_cast<Request*>(items[i]); }
  void clear();
  // Gives each request its first row and counts them all.
  void number_rows();
};

// Recycles batches between the threads that run and the loop thread that answers.
class BatchPool {
 public:
  std::unique_ptr<Batch> acquire();
  // Never fails.
  void release(std::unique_ptr<Batch> batch);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Batch>> free_;
};

// Takes finished batches; on an instance thread the completion queue, which never fails, on the
// loop thread the engine.
class BatchSink {
 public:
  virtual ~BatchSink() = default;
  virtual void finished(std::unique_ptr<Batch> batch) = 0;
};

// Answers what is past its deadline, if there is any: `expired` is taken then.
void refuse_expired(std::unique_ptr<Batch>& expired, BatchSink& sink);

// Takes out of the batch what was cancelled meanwhile, and finishes it. Never fails.
void drop_cancelled(Batch& batch, BatchPool& batches, BatchSink& sink);

// The first half of a batch that failed: one request must not fail its neighbours, so the halves
// run apart. The second half keeps this batch.
std::unique_ptr<Batch> split(Batch& batch, BatchPool& batches);

// Whether every output of an executed batch of several requests has the batch's rows, and where
// each request's elements start in BYTES outputs.
Status index_outputs(const Signature& signature, Batch& batch);

// How many requests of an executed batch have NaN or infinity in their answers.
std::uint32_t count_nonfinite(const Batch& batch);

// The rows of the batch's request `item` in its output `output`.
TensorView rows_of(const Batch& batch, std::size_t output, std::size_t item);

}  // namespace servolley::engine
