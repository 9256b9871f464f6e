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
  bool executed = false;  // the model ran (for statistics)
  TimePoint taken{};
  TimePoint inputs_ready{};
  TimePoint run_end{};

  Request& request(std::size_t i) const { return *static_cast<Request*>(items[i]); }
  void clear();
};

// Recycles batches between the threads that run and the loop thread that answers.
class BatchPool {
 public:
  std::unique_ptr<Batch> acquire();
  void release(std::unique_ptr<Batch> batch);

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<Batch>> free_;
};

// Takes finished batches; on an instance thread the completion queue, on the loop thread the
// engine.
class BatchSink {
 public:
  virtual ~BatchSink() = default;
  virtual void finished(std::unique_ptr<Batch> batch) = 0;
};

}  // namespace servolley::engine
