#pragma once

#include <cstdint>

#include "tensor/tensor_view.h"

namespace servolley::engine {

// How far the answers of one version are from those of another. Errors are of floating-point
// elements that are finite on both sides; the relative one is |a - b| / max(|a|, |b|), between 0
// (equal) and 2 (opposite signs), so that an answer of zero does not make it infinite.
struct Comparison {
  double max_abs_error = 0;
  double max_rel_error = 0;
  // Of floating-point outputs of rank 2 and more: places whose largest element along the last
  // dimension is another one.
  std::uint64_t label_flips = 0;
  // Rows of other outputs (integers, booleans, strings) that are not the same.
  std::uint64_t unequal_rows = 0;
  // Elements that are NaN or infinite on one side, and not the same on the other.
  std::uint64_t nonfinite = 0;
  // Outputs of another dtype or shape, of which nothing else is said.
  std::uint64_t shape_mismatches = 0;
};

// Adds what `actual` is to `expected`.
void compare_output(const TensorView& expected, const TensorView& actual, Comparison& into);

}  // namespace servolley::engine
