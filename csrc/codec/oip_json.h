#pragma once

#include "codec/infer.h"

namespace servolley::codec {

// The Open Inference Protocol's REST dialect with its binary tensor extension.
//
// Decodes the body of `POST /v2/models/M/infer`. `json_length` is the value of
// Inference-Header-Content-Length: absent = the body is JSON only; 0 = a raw binary request (the
// body is the data of the model's only input). Checks everything that does not depend on the batch
// limit: names, datatypes, shapes against the signature, equal first dimensions where the signature
// is batched, data sizes, parameters. On success every input of the signature is present. `body`
// must stay alive as long as the inputs whose owner is empty.
Status decode_oip_json(std::span<const std::byte> body, std::optional<std::uint64_t> json_length,
                       const DecodeContext& context, InferRequest& out);

struct OipResponseInfo {
  // Length of the JSON part when binary bytes follow it; 0 = the answer is JSON only and carries no
  // Inference-Header-Content-Length.
  std::size_t json_length = 0;
};

// Encodes the answer. `outputs` has one entry per output of the signature; `request.outputs` says
// which are listed, in which order and form. Binary outputs are appended to `payload` as views (no
// copy).
Result<OipResponseInfo> encode_oip_json(const InferRequest& request,
                                        std::span<const OutputView> outputs,
                                        const EncodeContext& context, Payload& payload);

// {"error":"<escaped message>"} - the error body of both REST dialects.
void append_error_json(std::string_view message, std::string& out);

}  // namespace servolley::codec
