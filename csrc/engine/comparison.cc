#include "engine/comparison.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "codec/half.h"

namespace servolley::engine {
namespace {

template <class T>
T read(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

double from_fp16(const std::byte* p) { return codec::float_from_fp16(read<std::uint16_t>(p)); }
double from_bf16(const std::byte* p) { return codec::float_from_bf16(read<std::uint16_t>(p)); }
double from_fp32(const std::byte* p) { return read<float>(p); }
double from_fp64(const std::byte* p) { return read<double>(p); }

void compare_element(double expected, double actual, Comparison& into) {
  if (!std::isfinite(expected) || !std::isfinite(actual)) {
    const bool same = expected == actual || (std::isnan(expected) && std::isnan(actual));
    if (!same) ++into.nonfinite;
    return;
  }
  const double error = std::fabs(expected - actual);
  if (error == 0) return;
  into.max_abs_error = std::max(into.max_abs_error, error);
  const double scale = std::max(std::fabs(expected), std::fabs(actual));
  into.max_rel_error = std::max(into.max_rel_error, error / scale);
}

// `labels`: elements of which the largest is the label; 1: there are no labels.
template <double (*kValue)(const std::byte*)>
void compare_floats(const TensorView& expected, const TensorView& actual, std::size_t labels,
                    Comparison& into) {
  const std::size_t size = element_size(expected.dtype);
  const std::size_t count = expected.bytes / size;
  for (std::size_t start = 0; start < count; start += labels) {
    std::size_t expected_label = 0;
    std::size_t actual_label = 0;
    double expected_best = -HUGE_VAL;
    double actual_best = -HUGE_VAL;
    for (std::size_t i = 0; i < labels; ++i) {
      const std::size_t at = (start + i) * size;
      const double a = kValue(expected.data + at);
      const double b = kValue(actual.data + at);
      compare_element(a, b, into);
      if (a > expected_best) {
        expected_best = a;
        expected_label = i;
      }
      if (b > actual_best) {
        actual_best = b;
        actual_label = i;
      }
    }
    if (expected_label != actual_label) ++into.label_flips;
  }
}

// What `count` packed BYTES elements that start at `p` take; nothing if they end behind `end`.
std::optional<std::size_t> packed_size(const std::byte* p, const std::byte* end,
                                       std::size_t count) {
  std::size_t size = 0;
  const auto room = static_cast<std::size_t>(end - p);
  for (; count > 0; --count) {
    if (room - size < 4) return std::nullopt;
    const std::size_t length = read<std::uint32_t>(p + size);
    if (room - size - 4 < length) return std::nullopt;
    size += 4 + length;
  }
  return size;
}

void compare_rows(const TensorView& expected, const TensorView& actual, Comparison& into) {
  const bool rowless = expected.shape.rank() == 0;
  const std::int64_t rows = rowless ? 1 : expected.shape[0];
  const auto per_row =
      static_cast<std::size_t>(rowless ? 1 : expected.shape.row_element_count().value_or(0));
  if (per_row == 0) return;
  const bool packed = expected.dtype == DType::kBytes;
  const std::size_t fixed = per_row * element_size(expected.dtype);
  std::size_t a = 0;
  std::size_t b = 0;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::byte* const at = expected.data + a;
    const std::byte* const other = actual.data + b;
    const auto size =
        packed ? packed_size(at, expected.data + expected.bytes, per_row) : std::optional(fixed);
    const auto other_size =
        packed ? packed_size(other, actual.data + actual.bytes, per_row) : std::optional(fixed);
    if (!size || !other_size) {
      into.unequal_rows += static_cast<std::uint64_t>(rows - row);
      return;
    }
    if (*size != *other_size || std::memcmp(at, other, *size) != 0) ++into.unequal_rows;
    a += *size;
    b += *other_size;
  }
}

}  // namespace

void compare_output(const TensorView& expected, const TensorView& actual, Comparison& into) {
  if (expected.dtype != actual.dtype || !(expected.shape == actual.shape)) {
    ++into.shape_mismatches;
    return;
  }
  const std::size_t rank = expected.shape.rank();
  const std::int64_t last = rank >= 2 ? expected.shape[rank - 1] : 1;
  const auto labels = static_cast<std::size_t>(std::max<std::int64_t>(last, 1));
  switch (expected.dtype) {
    case DType::kFp16:
      return compare_floats<from_fp16>(expected, actual, labels, into);
    case DType::kBf16:
      return compare_floats<from_bf16>(expected, actual, labels, into);
    case DType::kFp32:
      return compare_floats<from_fp32>(expected, actual, labels, into);
    case DType::kFp64:
      return compare_floats<from_fp64>(expected, actual, labels, into);
    default:
      return compare_rows(expected, actual, into);
  }
}

}  // namespace servolley::engine
