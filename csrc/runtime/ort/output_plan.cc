#include "runtime/ort/output_plan.h"

namespace servolley::ort {

OutputPlan::OutputPlan(const Signature& signature, const TensorSpec& output) {
  // Strings have no size before they are made.
  possible_ = output.rank_known && output.dtype != DType::kBytes;
  if (!possible_) return;
  for (std::size_t i = 0; i < output.shape.rank(); ++i) {
    if (output.shape[i] >= 0) {
      dims_.push_back({.value = output.shape[i]});
      continue;
    }
    bool found = false;
    const std::string& name = output.dim_names[i];
    for (std::size_t in = 0; in < signature.inputs.size() && !name.empty() && !found; ++in) {
      const TensorSpec& input = signature.inputs[in];
      for (std::size_t d = 0; d < input.dim_names.size() && !found; ++d) {
        if (input.dim_names[d] != name) continue;
        found = true;
        dims_.push_back({.source = Source::kInput,
                         .dim = static_cast<std::uint8_t>(d),
                         .input = static_cast<std::uint32_t>(in)});
      }
    }
    if (found) continue;
    if (i != 0) {
      possible_ = false;
      return;
    }
    dims_.push_back({.source = Source::kRows});
  }
}

std::optional<Shape> OutputPlan::infer(std::span<const TensorView> inputs,
                                       std::int64_t rows) const {
  Shape shape;
  for (const Dim& dim : dims_) {
    switch (dim.source) {
      case Source::kFixed:
        shape.push_back(dim.value);
        break;
      case Source::kInput: {
        const Shape& input = inputs[dim.input].shape;
        if (dim.dim >= input.rank()) return std::nullopt;  // the run will refuse this input
        shape.push_back(input[dim.dim]);
        break;
      }
      case Source::kRows:
        if (rows <= 0) return std::nullopt;
        shape.push_back(rows);
        break;
    }
  }
  return shape;
}

}  // namespace servolley::ort
