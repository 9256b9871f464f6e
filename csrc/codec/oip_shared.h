#pragma once

#include <optional>
#include <string>

#include "codec/infer.h"

// Tensors in a client's shared memory, whichever dialect says so. The codec outlines them; to read
// and write memory is not its affair.
namespace servolley::codec::oip {

// The three parameters of an input or a requested output.
struct SharedParameters {
  std::string region;
  std::optional<std::uint64_t> offset;  // absent: 0
  std::optional<std::uint64_t> bytes;
  bool given = false;  // a region was named
};

// Outlines an input, whose shape has been checked and has `elements`. UNIMPLEMENTED where there can
// be no shared memory, INVALID_ARGUMENT for a size that is missing or not what the shape takes.
Status outline_shared_input(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                            std::size_t elements, const SharedParameters& shared,
                            InferRequest& out);

// Adds an output to the request that is to be written into a region.
Status outline_shared_output(const DecodeContext& context, std::uint32_t index,
                             const SharedParameters& shared, InferRequest& out);

// Whether the data of an input, once it is here, is what its shape takes.
Status check_shared_data(const DecodeContext& context, std::uint32_t index,
                         const InputTensor& input);

}  // namespace servolley::codec::oip
