#pragma once

#include <optional>
#include <string>

#include "runtime/ort/ort_abi.h"
#include "tensor/dtype.h"

namespace servolley::ort {

int to_ort(DType dtype);
// Nothing for types that the protocol cannot carry (complex, float8, 4-bit integers).
std::optional<DType> from_ort(int element_type);
// "complex64", or "type 21" for one that has no name here.
std::string element_type_name(int element_type);

}  // namespace servolley::ort
