#pragma once

#include <optional>
#include <span>
#include <vector>

#include "tensor/signature.h"
#include "tensor/tensor_view.h"

namespace servolley::ort {

// How one output's shape follows from the inputs: fixed dimensions, free ones that carry the name
// of an input's dimension, and the batch dimension. Only as true as the model's own declarations,
// so the run has the last word.
class OutputPlan {
 public:
  OutputPlan(const Signature& signature, const TensorSpec& output);

  // False if some dimension can never be known before the run.
  bool possible() const { return possible_; }
  // The shape for these inputs (in the signature's order); `rows` as in Executor::run. Nothing if a
  // dimension is not known this time.
  std::optional<Shape> infer(std::span<const TensorView> inputs, std::int64_t rows) const;

 private:
  enum class Source : std::uint8_t { kFixed, kInput, kRows };
  struct Dim {
    Source source = Source::kFixed;
    std::uint8_t dim = 0;     // of `input`
    std::uint32_t input = 0;  // kInput
    std::int64_t value = 0;   // kFixed
  };
  std::vector<Dim> dims_;
  bool possible_ = true;
};

}  // namespace servolley::ort
