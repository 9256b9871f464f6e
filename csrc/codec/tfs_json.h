#pragma once

#include "codec/infer.h"

namespace servolley::codec {

// TensorFlow Serving's REST dialect.
//
// Decodes the body of `POST /v1/models/M:predict`, row ("instances") or columnar ("inputs") form.
// Shapes come from the nesting of the data and are not checked against the signature: the runtime
// decides, as in TensorFlow Serving. `request.outputs` lists every output of the signature.
Status decode_tfs_predict(std::span<const std::byte> body, const DecodeContext& context,
                          InferRequest& out);

// Encodes {"predictions": ...} or {"outputs": ...}. INVALID_ARGUMENT if the row form is impossible
// (a scalar output, or outputs whose first dimensions differ).
Status encode_tfs_predict(const InferRequest& request, std::span<const OutputView> outputs,
                          const EncodeContext& context, Payload& payload);

}  // namespace servolley::codec
