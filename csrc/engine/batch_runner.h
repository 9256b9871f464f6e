#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "engine/batch.h"
#include "memory/pool.h"
#include "runtime/runner.h"

namespace servolley::engine {

// Runs batches with one executor: gathers the inputs, runs, and bisects a batch that fails so that
// one bad request fails alone. Belongs to one thread at a time.
class BatchRunner {
 public:
  // `watched`: whether to look for NaN and infinity in what the model answers; null: never.
  BatchRunner(const Signature& signature, std::unique_ptr<Executor> executor, Pool& pool,
              BatchPool& batches, const std::atomic<bool>* watched = nullptr);

  // Runs the batch's items and hands one or more finished batches to `sink`. Items that were
  // cancelled meanwhile are not run. Never throws: whatever a runtime throws becomes INTERNAL for
  // that batch.
  void run(std::unique_ptr<Batch> batch, BatchSink& sink);
  Executor& executor() { return *executor_; }
  // The same before the model serves (see Executor::rehearse).
  void rehearse(std::unique_ptr<Batch> batch, BatchSink& sink);

  // Time that the executor took for the last call of run(), bisection included.
  Duration last_run() const { return last_run_; }

 private:
  void run_or_bisect(std::unique_ptr<Batch> batch, BatchSink& sink);
  Status execute(Batch& batch);
  Status gather(const Batch& batch, std::size_t input, TensorView& view);

  const Signature& signature_;
  std::unique_ptr<Executor> executor_;
  Pool& pool_;
  BatchPool& batches_;
  const std::atomic<bool>* const watched_;
  std::vector<TensorView> views_;
  std::vector<Buffer> gathered_;
  Duration last_run_{0};
};

}  // namespace servolley::engine
