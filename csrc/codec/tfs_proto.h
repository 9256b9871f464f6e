#pragma once

#include "codec/infer.h"

namespace servolley::codec {

// TensorFlow Serving's gRPC dialect: tensorflow.serving.PredictRequest and -Response.

// ModelSpec of a request. Views lie in the message.
struct TfsProtoHead {
  std::string_view model;
  std::optional<std::int64_t> version;
  std::string_view label;
  std::string_view signature;  // empty = serving_default
};

// Reads only the ModelSpec. INVALID_ARGUMENT if it is missing or the message is not well-formed.
Result<TfsProtoHead> read_tfs_head(std::span<const std::byte> message);

// Decodes a whole PredictRequest: tensor_content or typed fields (fewer values than elements: the
// last one repeats; more: INVALID_ARGUMENT), output_filter. Shapes are not checked against the
// signature beyond names and datatypes. A signature name other than serving_default:
// FAILED_PRECONDITION.
Status decode_tfs_proto(std::span<const std::byte> message, const DecodeContext& context,
                        InferRequest& out);

// Encodes a PredictResponse with model_spec (name, resolved version, signature). `tensor_content`:
// dense bytes instead of the typed *_val fields that TensorFlow Serving's clients read by default.
Status encode_tfs_proto(const InferRequest& request, std::span<const OutputView> outputs,
                        const EncodeContext& context, bool tensor_content, Payload& payload);

}  // namespace servolley::codec
