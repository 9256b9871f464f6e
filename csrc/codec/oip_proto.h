#pragma once

#include "codec/infer.h"

namespace servolley::codec {

// The Open Inference Protocol's gRPC dialect: inference.ModelInferRequest and -Response.

// What routing needs of a request. Views lie in the message.
struct OipProtoHead {
  std::string_view model;
  std::string_view version;  // decimal text; empty = the default version
  std::string_view id;
};

// Reads only the head. INVALID_ARGUMENT if the message is not well-formed at its top level.
Result<OipProtoHead> read_oip_head(std::span<const std::byte> message);

// Decodes a whole ModelInferRequest; rules as decode_oip_json, data from raw_input_contents or from
// typed contents, never mixed. `message` must stay alive as long as the inputs whose owner is
// empty.
Status decode_oip_proto(std::span<const std::byte> message, const DecodeContext& context,
                        InferRequest& out);

// Encodes a ModelInferResponse: one raw_output_contents entry per listed output; large tensors are
// views. `final_response` adds parameters["triton_final_response"], as every streamed answer
// carries it.
Status encode_oip_proto(const InferRequest& request, std::span<const OutputView> outputs,
                        const EncodeContext& context, bool final_response, Payload& payload);

// Wraps an encoded ModelInferResponse into a ModelStreamInferResponse: puts the field header before
// it.
Status prepend_stream_envelope(Payload& response, Pool& pool);
// ModelStreamInferResponse{error_message, infer_response{model, version, id, final}}.
Status encode_oip_stream_error(std::string_view message, std::string_view model,
                               std::string_view version, std::string_view id, Pool& pool,
                               Payload& payload);

}  // namespace servolley::codec
