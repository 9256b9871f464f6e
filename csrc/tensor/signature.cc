#include "tensor/signature.h"

#include <algorithm>

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

std::string names_of(const std::vector<TensorSpec>& specs) {
  std::string text;
  for (const TensorSpec& spec : specs) text += (text.empty() ? "'" : ", '") + spec.name + "'";
  return text.empty() ? "none" : text;
}

// The declared shape with the batch dimension, if it is to be put in front.
Shape completed(const Shape& declared, const TensorSpec& spec, BatchDimension batch) {
  const bool shorter = spec.rank_known && declared.rank() + 1 == spec.shape.rank();
  if (batch == BatchDimension::kDeclared || (batch == BatchDimension::kEither && !shorter)) {
    return declared;
  }
  Shape out{-1};
  for (const std::int64_t dim : declared.dims()) {
    if (!out.full()) out.push_back(dim);
  }
  return out;
}

// `what`: "input" or "output".
Status narrow_one(TensorSpec& spec, const DeclaredTensor& declared, BatchDimension batch,
                  std::string_view what) {
  const std::string subject =
      "the configuration says that " + std::string(what) + " '" + spec.name + "' has ";
  if (declared.dtype && *declared.dtype != spec.dtype) {
    return invalid_argument(subject + "the datatype " + std::string(oip_name(*declared.dtype)) +
                            ", but the model has " + std::string(oip_name(spec.dtype)));
  }
  if (!declared.shape) return {};
  // Configurations have no shapes without dimensions: a scalar is [1] there.
  if (spec.rank_known && spec.shape.rank() == 0 && *declared.shape == Shape{1}) return {};
  const Shape shape = completed(*declared.shape, spec, batch);
  bool same = !spec.rank_known || shape.rank() == spec.shape.rank();
  for (std::size_t i = 0; same && spec.rank_known && i < shape.rank(); ++i) {
    same = spec.shape[i] == -1 || spec.shape[i] == shape[i];
  }
  if (!same) {
    std::string text = subject + "the shape " + declared.shape->to_string();
    if (shape.rank() != declared.shape->rank()) {
      text += ", with the batch dimension " + shape.to_string();
    }
    return invalid_argument(text + ", but the model has " + spec.shape.to_string());
  }
  spec.shape = shape;
  spec.rank_known = true;
  return {};
}

Status narrow_all(std::vector<TensorSpec>& specs, std::span<const DeclaredTensor> declared,
                  BatchDimension batch, std::string_view what) {
  for (const DeclaredTensor& one : declared) {
    const auto index = find(specs, one.name);
    if (!index) {
      return invalid_argument("the configuration names an " + std::string(what) + " '" + one.name +
                              "', but the model has " + names_of(specs));
    }
    SERVOLLEY_TRY(narrow_one(specs[*index], one, batch, what));
  }
  return {};
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

Status Signature::narrow(std::span<const DeclaredTensor> declared_inputs,
                         std::span<const DeclaredTensor> declared_outputs, BatchDimension batch) {
  SERVOLLEY_TRY(narrow_all(inputs, declared_inputs, batch, "input"));
  SERVOLLEY_TRY(narrow_all(outputs, declared_outputs, batch, "output"));
  if (declared_inputs.empty()) return {};
  for (const TensorSpec& spec : inputs) {
    const bool listed = std::any_of(declared_inputs.begin(), declared_inputs.end(),
                                    [&](const auto& one) { return one.name == spec.name; });
    if (!listed) {
      return invalid_argument("the model has an input '" + spec.name +
                              "' that the configuration does not name");
    }
  }
  return {};
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
