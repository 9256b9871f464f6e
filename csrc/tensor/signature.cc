#include "tensor/signature.h"

namespace servolley {
namespace {

std::optional<std::uint32_t> find(const std::vector<TensorSpec>& specs, std::string_view name) {
  for (std::size_t i = 0; i < specs.size(); ++i) {
    if (specs[i].name == name) return static_cast<std::uint32_t>(i);
  }
  return std::nullopt;
}

bool fits(const Shape& declared, const Shape& sent) {
  if (declared.rank() != sent.rank()) return false;
  for (std::size_t i = 0; i < sent.rank(); ++i) {
    if (declared[i] != -1 && declared[i] != sent[i]) return false;
  }
  return true;
}

}  // namespace

std::optional<std::uint32_t> Signature::input_index(std::string_view name) const {
  return find(inputs, name);
}

std::optional<std::uint32_t> Signature::output_index(std::string_view name) const {
  return find(outputs, name);
}

Status Signature::check_input(std::uint32_t index, const Shape& sent,
                              std::string_view model) const {
  const TensorSpec& spec = inputs[index];
  if (!spec.rank_known || fits(spec.shape, sent)) return {};
  std::string text = "unexpected shape for input '" + spec.name + "' for model '";
  text += model;
  text += "'. Expected " + spec.shape.to_string() + ", got " + sent.to_string() + '.';
  if (batched && sent.rank() + 1 == spec.shape.rank()) {
    text += " The first dimension is the batch: a single item has shape [1,...].";
  }
  return invalid_argument(std::move(text));
}

bool Signature::batchable() const {
  if (inputs.empty() || outputs.empty()) return false;
  for (const auto* side : {&inputs, &outputs}) {
    for (const TensorSpec& spec : *side) {
      if (!spec.rank_known || spec.shape.rank() == 0 || spec.shape[0] != -1) return false;
    }
  }
  const auto name_of = [](const TensorSpec& spec, std::size_t i) {
    return i < spec.dim_names.size() ? std::string_view(spec.dim_names[i]) : std::string_view();
  };
  std::string_view agreed;
  for (const TensorSpec& input : inputs) {
    const std::string_view name = name_of(input, 0);
    if (name.empty()) continue;
    if (!agreed.empty() && agreed != name) return false;
    agreed = name;
  }
  // Converters often give an output's batch dimension a fresh name, so only a name that an input
  // uses for another dimension is a contradiction.
  for (const TensorSpec& output : outputs) {
    const std::string_view name = name_of(output, 0);
    if (name.empty() || name == agreed) continue;
    for (const TensorSpec& input : inputs) {
      for (std::size_t i = 1; i < input.shape.rank(); ++i) {
        if (name_of(input, i) == name) return false;
      }
    }
  }
  return true;
}

}  // namespace servolley
