#pragma once

#include "memory/pool.h"
#include "runtime/ort/ort_library.h"
#include "runtime/runner.h"

namespace servolley::ort {

// ONNX Runtime's string tensor of a packed one (u32 length, bytes, back to back). INVALID_ARGUMENT
// if the packed form does not hold exactly as many elements as the shape says; checked before
// anything is allocated.
Result<Handle<abi::Value>> make_strings(const Library& library, const TensorView& view);

// The packed form of a string tensor with `elements` elements, in memory of the pool. The view's
// shape is left alone. RESOURCE_EXHAUSTED above `limit_bytes`.
Status pack_strings(const Library& library, const abi::Value* strings, std::size_t elements,
                    Pool& pool, std::size_t limit_bytes, OutputTensor& packed);

}  // namespace servolley::ort
