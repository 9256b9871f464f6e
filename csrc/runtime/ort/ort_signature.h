#pragma once

#include "base/status.h"
#include "runtime/ort/ort_library.h"
#include "tensor/signature.h"

namespace servolley::ort {

// Names, types and shapes of the session that will serve. INVALID_ARGUMENT names the input or
// output that the server cannot carry: no tensor, an unsupported type, too many dimensions.
Result<Signature> read_signature(const Library& library, const abi::Session* session);

}  // namespace servolley::ort
