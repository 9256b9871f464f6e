#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace servolley {

// One input or output of a model. `shape` holds -1 for free dimensions and includes the batch
// dimension. `rank_known` is false for tensors that the model declares without a shape: any shape
// is then let through and the runtime decides.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kFp32;
  Shape shape;
  std::vector<std::string> dim_names;  // one per dimension, empty where the model gives none
  bool rank_known = true;
  std::vector<std::string> labels;  // class labels of an output, may be empty
};

// What a configuration says of one input or output. `shape` holds -1 for free dimensions.
struct DeclaredTensor {
  std::string name;
  std::optional<DType> dtype;
  std::optional<Shape> shape;
};

// Whether declared shapes have the batch dimension, or leave it to be put in front of them.
enum class BatchDimension : std::uint8_t {
  kDeclared,
  kImplied,
  kEither,  // left out where the shape is shorter than the model's by one
};

// Names, types and shapes of a servable.
struct Signature {
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  // True when dimension 0 of every input and output is the batch dimension: requests may share a
  // run.
  bool batched = false;

  std::optional<std::uint32_t> input_index(std::string_view name) const;
  std::optional<std::uint32_t> output_index(std::string_view name) const;

  // Whether a request's shape fits the declared one: same rank, equal fixed dimensions.
  // INVALID_ARGUMENT names the model, the input, what was expected and what was sent.
  Status check_input(std::uint32_t index, const Shape& sent, std::string_view model) const;

  // Compares what is declared with what the model has, and fixes the free dimensions that are
  // declared to be fixed. Declared inputs must be all of the model's; outputs may be some of them.
  // INVALID_ARGUMENT names the tensor that is not as declared; the signature is of no use then.
  Status narrow(std::span<const DeclaredTensor> declared_inputs,
                std::span<const DeclaredTensor> declared_outputs, BatchDimension batch);

  // True if every input and output has a free first dimension and the names that the model gives to
  // dimensions do not say otherwise: inputs agree on the first one's name (a [sequence, ...] input
  // beside a [batch, ...] one must not be concatenated), and no output leads with a name that an
  // input uses elsewhere.
  bool batchable() const;
};

}  // namespace servolley
