#include "codec/oip_shared.h"

#include "codec/messages.h"
#include "codec/oip_rules.h"

namespace servolley::codec::oip {
namespace {

// The part of a region that the parameters name.
Result<SharedOutput> find_part(const DecodeContext& context, const SharedParameters& shared,
                               const std::string& tensor) {
  if (!context.regions) return no_shared_memory(context, tensor);
  if (!shared.bytes) {
    return invalid_argument(message("'shared_memory_region' of ", tensor, for_model(context.model),
                                    " needs 'shared_memory_byte_size'"));
  }
  auto region = context.regions->find(shared.region);
  if (!region) return std::move(region).error();
  SharedOutput part{std::move(*region), shared.offset.value_or(0), *shared.bytes};
  if (const Status inside = part.region->check_range(part.offset, part.bytes); !inside.ok()) {
    return invalid_argument(message("invalid shared memory of ", tensor, ": ", inside.message()));
  }
  return part;
}

}  // namespace

Status read_shared_input(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                         std::size_t elements, const SharedParameters& shared, DecodeBudget& budget,
                         InputTensor& tensor) {
  constexpr std::string_view kWhere = "shared_memory_byte_size is ";
  const TensorSpec& spec = context.signature.inputs[index];
  const auto part = find_part(context, shared, "input " + quoted(spec.name));
  if (!part) return part.error();
  const auto bytes = static_cast<std::size_t>(part->bytes);
  SERVOLLEY_TRY(check_raw_size(context, index, shape, elements, bytes, kWhere));
  if (!budget.take(bytes)) return budget.exceeded();
  auto copy = context.pool.allocate(bytes);
  if (!copy) return std::move(copy).error();
  const std::span<std::byte> data{copy->data(), bytes};
  SERVOLLEY_TRY(part->region->read(part->offset, data));
  // What is checked is the copy: the client may go on writing.
  SERVOLLEY_TRY(check_raw_data(context, index, shape, elements, data, kWhere));
  tensor.view = {spec.dtype, shape, data.data(), bytes};
  tensor.owner = std::move(*copy);
  return {};
}

Status add_shared_output(const DecodeContext& context, std::uint32_t index,
                         const SharedParameters& shared, InferRequest& out) {
  auto part = find_part(context, shared, "output " + quoted(context.signature.outputs[index].name));
  if (!part) return std::move(part).error();
  out.outputs.push_back({.index = index,
                         .form = OutputForm::kShared,
                         .classification = 0,
                         .shared = static_cast<std::uint32_t>(out.shared_outputs.size())});
  out.shared_outputs.push_back(std::move(*part));
  return {};
}

Status write_shared_output(const SharedOutput& to, const TensorView& view,
                           std::string_view output) {
  if (view.bytes > to.bytes) {
    return invalid_argument(message("shared memory of ", std::to_string(to.bytes),
                                    " bytes for output ", quoted(output), " is too small: it has ",
                                    std::to_string(view.bytes), " bytes"));
  }
  return to.region->write(to.offset, view.span());
}

}  // namespace servolley::codec::oip
