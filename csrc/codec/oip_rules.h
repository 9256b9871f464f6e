#pragma once

#include <span>
#include <string>
#include <string_view>

#include "codec/infer.h"

// What the Open Inference Protocol asks of a request in whichever dialect it comes. Failures are
// INVALID_ARGUMENT unless said otherwise. Names that were sent must be valid UTF-8.
namespace servolley::codec::oip {

std::string for_model(std::string_view model);  // " for model 'm'"

// The signature's input of that name.
Result<std::uint32_t> find_input(const DecodeContext& context, std::string_view name);
Status input_given_twice(const DecodeContext& context, std::uint32_t index);
Status bad_shape(const DecodeContext& context, std::string_view input, std::string_view what);
inline constexpr std::string_view kBadDimension =
    "every dimension must be an integer from 0 to 9223372036854775807";
inline constexpr std::string_view kTooManyElements = "its number of elements does not fit 64 bits";

// Whether datatype and shape fit the signature; if so, the number of elements.
Result<std::size_t> check_input(const DecodeContext& context, std::uint32_t index, DType dtype,
                                const Shape& shape);
// Whether `bytes` is what the checked shape takes; for BYTES only the data can tell. `where` ends
// the message, for example "binary_data_size is ".
Status check_raw_size(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                      std::size_t elements, std::size_t bytes, std::string_view where);
// The same for the data itself: whether `data`, raw bytes, is what the checked shape takes.
Status check_raw_data(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                      std::size_t elements, std::span<const std::byte> data,
                      std::string_view where);
// Whether every input of the signature has data.
Status check_complete(const DecodeContext& context, const InferRequest& request);
// Whether all inputs have equally many rows, if the signature is batched.
Status check_rows(const DecodeContext& context, const InferRequest& request);

// The signature's output of that name, which the request has not asked for yet.
Result<std::uint32_t> find_output(const DecodeContext& context, const InferRequest& request,
                                  std::string_view name);
Status check_classification(const TensorSpec& output);
// The reserved range of the classification parameter is 1 to 2^32 - 1.
Status bad_classification();

Status reserved_parameter(std::string_view key);
// UNIMPLEMENTED.
Status no_sequences(const DecodeContext& context);
Status no_shared_memory(const DecodeContext& context, std::string_view tensor);

}  // namespace servolley::codec::oip
