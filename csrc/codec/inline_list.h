#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <vector>

namespace servolley::codec {

// A list whose first `kInPlace` elements need no allocation: what a request has one of per tensor.
template <class T, std::size_t kInPlace = 16>
class InlineList {
 public:
  void push_back(const T& value) {
    if (size_ < kInPlace) {
      first_[size_] = value;
    } else {
      rest_.push_back(value);
    }
    ++size_;
  }
  std::size_t size() const { return size_; }
  const T& operator[](std::size_t i) const {
    return i < kInPlace ? first_[i] : rest_[i - kInPlace];
  }
  bool contains(const T& value) const {
    const auto end = first_.begin() + static_cast<std::ptrdiff_t>(std::min(size_, kInPlace));
    return std::find(first_.begin(), end, value) != end ||
           std::find(rest_.begin(), rest_.end(), value) != rest_.end();
  }

 private:
  std::array<T, kInPlace> first_;
  std::vector<T> rest_;
  std::size_t size_ = 0;
};

}  // namespace servolley::codec
