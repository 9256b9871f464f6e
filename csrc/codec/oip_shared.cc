#include "codec/oip_shared.h"

#include "codec/messages.h"
#include "codec/oip_rules.h"

namespace servolley::codec::oip {
namespace {

constexpr std::string_view kSize = "shared_memory_byte_size is ";

Result<SharedPart> outline_part(const DecodeContext& context, const SharedParameters& shared,
                                std::string_view what, const std::string& name) {
  const auto tensor = [&] { return message(what, quoted(name)); };
  if (!context.shared_memory) return no_shared_memory(context, tensor());
  if (shared.bytes) return SharedPart{shared.region, shared.offset.value_or(0), *shared.bytes};
  return invalid_argument(message("'shared_memory_region' of ", tensor(), for_model(context.model),
                                  " needs 'shared_memory_byte_size'"));
}

}  // namespace

Status outline_shared_input(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                            std::size_t elements, const SharedParameters& shared,
                            InferRequest& out) {
  const TensorSpec& spec = context.signature.inputs[index];
  auto part = outline_part(context, shared, "input ", spec.name);
  if (!part) return std::move(part).error();
  const auto bytes = static_cast<std::size_t>(part->bytes);
  SERVOLLEY_TRY(check_raw_size(context, index, shape, elements, bytes, kSize));
  InputTensor& input = out.inputs[index];
  input.view = {spec.dtype, shape, nullptr, bytes};
  input.shared = true;
  out.shared_inputs.push_back({index, std::move(*part)});
  return {};
}

Status outline_shared_output(const DecodeContext& context, std::uint32_t index,
                             const SharedParameters& shared, InferRequest& out) {
  auto part = outline_part(context, shared, "output ", context.signature.outputs[index].name);
  if (!part) return std::move(part).error();
  out.outputs.push_back({.index = index,
                         .form = OutputForm::kShared,
                         .classification = 0,
                         .shared = static_cast<std::uint32_t>(out.shared_outputs.size())});
  out.shared_outputs.push_back(std::move(*part));
  return {};
}

Status check_shared_data(const DecodeContext& context, std::uint32_t index,
                         const InputTensor& input) {
  const auto elements = static_cast<std::size_t>(input.view.shape.element_count().value_or(0));
  return check_raw_data(context, index, input.view.shape, elements, input.view.span(), kSize);
}

}  // namespace servolley::codec::oip
