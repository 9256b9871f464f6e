#pragma once

#include "tensor/tensor_view.h"

namespace servolley::engine {

// Whether any element is NaN or infinite. Never so for dtypes that have no such values.
bool has_nonfinite(const TensorView& view);

}  // namespace servolley::engine
