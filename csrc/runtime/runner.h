#pragma once

// runtime [layer 4]: runs one batch of bound tensors. One folder per runtime; the engine knows only
// this header, so that every thread of it is tested with a fake runner.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "memory/buffer.h"
#include "tensor/signature.h"
#include "tensor/tensor_view.h"

namespace servolley {

// One output of a run. `view` lies in `owner`: pooled memory that was bound before the run, or
// memory of the runtime that lives as long as its last lease.
struct OutputTensor {
  TensorView view;
  Buffer owner;
};

// What one instance runs batches with. Belongs to one thread at a time.
class Executor {
 public:
  virtual ~Executor() = default;
  // Runs the model once. `inputs` follow the signature's order; `outputs` (one per output of the
  // signature) are filled. `rows` is the batch size where the signature is batched, else 0.
  // INVALID_ARGUMENT if the runtime blames the inputs, RESOURCE_EXHAUSTED if memory ran out,
  // INTERNAL otherwise. On an error no output is filled.
  virtual Status run(std::span<const TensorView> inputs, std::int64_t rows,
                     std::span<OutputTensor> outputs) = 0;
};

// A loaded model: weights once, any number of executors. Thread-safe.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual const Signature& signature() const = 0;
  // The runtime and the model, as `platform` names it in metadata ("onnxruntime_onnx").
  virtual std::string_view platform() const = 0;
  virtual Result<std::unique_ptr<Executor>> create_executor() = 0;
};

}  // namespace servolley
