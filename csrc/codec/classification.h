#pragma once

#include "codec/infer.h"

namespace servolley::codec {

// Largest tensor that may be asked for as classes.
inline constexpr std::size_t kMaxClassifiedElements = 1'000'000;

// Whether the classification extension is defined for a datatype: integers, FP32 and FP64.
bool can_classify(DType dtype);

struct ClassifiedTensor {
  TensorView view;  // BYTES, [rows, k] for a batched signature, else [k]
  Buffer owner;
};

// The `k` largest elements (of every batch row if `batched`) as "value:index" or
// "value:index:label", largest first, equal values by index, NaN last. Fewer if a row has fewer.
Result<ClassifiedTensor> classify(const TensorView& source, const TensorSpec& spec, bool batched,
                                  std::uint32_t k, Pool& pool);

}  // namespace servolley::codec
