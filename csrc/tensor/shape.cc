#include "tensor/shape.h"

namespace servolley {
namespace {

std::optional<std::int64_t> product(std::span<const std::int64_t> dims) {
  // A zero anywhere makes the product zero, but a negative or overflowing neighbour is still
  // refused.
  std::int64_t total = 1;
  bool zero = false;
  for (auto d : dims) {
    if (d < 0) return std::nullopt;
    if (d == 0) {
      zero = true;
    } else if (__builtin_mul_overflow(total, d, &total)) {
      return std::nullopt;
    }
  }
  return zero ? 0 : total;
}

}  // namespace

std::optional<std::int64_t> Shape::element_count() const { return product(dims()); }

std::optional<std::int64_t> Shape::row_element_count() const {
  return rank_ < 2 ? std::optional<std::int64_t>(1) : product(dims().subspan(1));
}

std::optional<std::size_t> Shape::byte_count(DType dtype) const {
  const auto count = element_count();
  if (!count) return std::nullopt;
  std::size_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<std::size_t>(*count), element_size(dtype), &bytes)) {
    return std::nullopt;
  }
  if (bytes > static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max())) {
    return std::nullopt;
  }
  return bytes;
}

std::string Shape::to_string() const {
  std::string text = "[";
  for (std::size_t i = 0; i < rank_; ++i) {
    if (i) text += ',';
    text += std::to_string(dims_[i]);
  }
  return text + ']';
}

}  // namespace servolley
