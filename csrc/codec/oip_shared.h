#pragma once

#include <optional>
#include <string>

#include "codec/decode_budget.h"
#include "codec/infer.h"

// Tensors in a client's shared memory, whichever dialect says so.
namespace servolley::codec::oip {

// The three parameters of an input or a requested output.
struct SharedParameters {
  std::string region;
  std::optional<std::uint64_t> offset;  // absent: 0
  std::optional<std::uint64_t> bytes;
  bool given = false;  // a region was named
};

// Copies an input, whose shape has been checked and has `elements`, out of its region. NOT_FOUND
// for an unknown region, UNIMPLEMENTED where there can be none, INVALID_ARGUMENT for a part that
// does not lie in it or is not what the shape takes, TOO_LARGE above the budget. Nothing is
// allocated before all of that is known.
Status read_shared_input(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                         std::size_t elements, const SharedParameters& shared, DecodeBudget& budget,
                         InputTensor& tensor);

// Adds an output to the request that is to be written into a region.
Status add_shared_output(const DecodeContext& context, std::uint32_t index,
                         const SharedParameters& shared, InferRequest& out);

// Writes an output where its client wants it. INVALID_ARGUMENT if it is larger than that.
Status write_shared_output(const SharedOutput& to, const TensorView& view, std::string_view output);

}  // namespace servolley::codec::oip
