#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <optional>
#include <span>
#include <string>

#include "tensor/dtype.h"

namespace servolley {

// More dimensions than any model in the field uses, few enough to live inside a request.
inline constexpr std::size_t kMaxRank = 16;

// Dimensions in place, no allocation. In a request every dimension is >= 0; in a signature -1 is
// free.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) {
    for (auto d : dims) push_back(d);
  }

  std::size_t rank() const { return rank_; }
  bool full() const { return rank_ == kMaxRank; }
  void clear() { rank_ = 0; }
  // The caller checks full() first.
  void push_back(std::int64_t dim) { dims_[rank_++] = dim; }
  std::int64_t operator[](std::size_t i) const { return dims_[i]; }
  std::int64_t& operator[](std::size_t i) { return dims_[i]; }
  std::span<const std::int64_t> dims() const { return {dims_.data(), rank_}; }

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (std::size_t i = 0; i < a.rank_; ++i) {
      if (a.dims_[i] != b.dims_[i]) return false;
    }
    return true;
  }

  // Product of the dimensions; nothing if one is negative or the product leaves int64.
  std::optional<std::int64_t> element_count() const;
  // Product of the dimensions behind the first (1 for rank 0 and 1), same rules.
  std::optional<std::int64_t> row_element_count() const;
  // element_count() times the element size; nothing on overflow. 0 for BYTES.
  std::optional<std::size_t> byte_count(DType dtype) const;
  std::string to_string() const;  // "[-1,4]"

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  std::uint8_t rank_ = 0;
};

}  // namespace servolley
