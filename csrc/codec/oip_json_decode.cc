#include <cstring>
#include <limits>

#include "codec/oip_decoder.h"
#include "codec/oip_json.h"

namespace servolley::codec {
namespace {

// The body is the data of the model's only input; its shape follows from its size: one batch row,
// and at most one free dimension takes what is left.
Status decode_raw_binary(std::span<const std::byte> body, const DecodeContext& context,
                         InferRequest& out) {
  out.clear();
  const auto refuse = [&](const std::string& what) {
    return invalid_argument(message("raw binary request for model '", context.model, "': ", what));
  };
  const Signature& signature = context.signature;
  if (signature.inputs.size() != 1) {
    return refuse("the model must have exactly one input, it has " +
                  std::to_string(signature.inputs.size()));
  }
  const TensorSpec& spec = signature.inputs[0];
  const std::string input = "input " + quoted(spec.name);
  if (!spec.rank_known) return refuse(input + " has no declared shape");

  Shape shape = spec.shape;
  std::size_t first_free = signature.batched && shape.rank() > 0 ? 1 : 0;
  if (first_free == 1 && shape[0] == -1) shape[0] = 1;
  std::size_t free_dim = oip::kNone;
  for (std::size_t i = first_free; i < shape.rank(); ++i) {
    if (shape[i] != -1) continue;
    if (free_dim != oip::kNone) {
      return refuse(input + " has more than one free dimension: " + spec.shape.to_string());
    }
    free_dim = i;
    shape[i] = 1;
  }
  const auto unit_elements = shape.element_count();
  const auto unit_bytes = shape.byte_count(spec.dtype);
  if (!unit_elements || !unit_bytes) return refuse(input + ": its size does not fit 64 bits");

  if (spec.dtype == DType::kBytes) {
    if (*unit_elements != 1) {
      return refuse(input +
                    " is BYTES, its shape must hold one element: " + spec.shape.to_string());
    }
    if (body.size() > std::numeric_limits<std::uint32_t>::max() ||
        body.size() > context.decoded_bytes_limit ||
        context.decoded_bytes_limit - body.size() < sizeof(std::uint32_t)) {
      return DecodeBudget(context.decoded_bytes_limit).exceeded();
    }
    auto packed = context.pool.allocate(body.size() + sizeof(std::uint32_t));
    if (!packed) return std::move(packed).error();
    const auto length = static_cast<std::uint32_t>(body.size());
    std::memcpy(packed->data(), &length, sizeof length);
    if (!body.empty()) std::memcpy(packed->data() + sizeof length, body.data(), body.size());
    const TensorView view{spec.dtype, shape, packed->data(), body.size() + sizeof length};
    out.inputs.push_back({view, std::move(*packed)});
  } else {
    const bool fits = *unit_bytes == 0         ? body.empty()
                      : free_dim == oip::kNone ? body.size() == *unit_bytes
                                               : body.size() % *unit_bytes == 0;
    if (!fits) {
      return invalid_argument(message("unexpected size for ", input, " for model '", context.model,
                                      "': shape ", spec.shape.to_string(), " of ",
                                      oip_name(spec.dtype), " does not take ",
                                      std::to_string(body.size()), " bytes"));
    }
    if (free_dim != oip::kNone && *unit_bytes != 0) {
      shape[free_dim] = static_cast<std::int64_t>(body.size() / *unit_bytes);
    }
    out.inputs.push_back({{spec.dtype, shape, body.data(), body.size()}, {}});
  }
  for (std::uint32_t i = 0; i < signature.outputs.size(); ++i) {
    out.outputs.push_back({.index = i, .form = OutputForm::kBinary, .classification = 0});
  }
  return {};
}

}  // namespace

Status decode_oip_json(std::span<const std::byte> body, std::optional<std::uint64_t> json_length,
                       const DecodeContext& context, InferRequest& out) {
  if (json_length == 0) return decode_raw_binary(body, context, out);
  const std::uint64_t length = json_length.value_or(body.size());
  if (length > body.size()) {
    return invalid_argument("Inference-Header-Content-Length is " + std::to_string(length) +
                            ", the body has " + std::to_string(body.size()) + " bytes");
  }
  const auto json = body.first(static_cast<std::size_t>(length));
  oip::Decoder decoder({reinterpret_cast<const char*>(json.data()), json.size()},
                       body.subspan(json.size()), context, out);
  return decoder.run();
}

}  // namespace servolley::codec
