#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "memory/pool.h"
#include "runtime/runner.h"
#include "tensor/signature.h"

namespace servolley::engine {

enum class RowCheck : std::uint8_t {
  kIndependent,
  kDependent,
  kUnknown,  // the model did not take what it was given, or does not answer the same twice
};

// Runs a model on a batch of so many rows, as Executor::run().
using RunRows = std::function<Status(std::span<const TensorView> inputs, std::int64_t rows,
                                     std::span<OutputTensor> outputs)>;

// Whether a model whose signature has a batch dimension gives each row what it gives that row
// alone. A free first dimension may be time just as well; requests of several clients that were put
// together would get each other's values then. Runs two rows of made-up values, apart and together;
// what rounding and quantization make of them in company does not count.
RowCheck check_rows(const Signature& signature, Pool& pool, const RunRows& run);

}  // namespace servolley::engine
