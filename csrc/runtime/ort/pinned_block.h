#pragma once

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "device/cuda/gpu.h"

namespace servolley::ort {

// Pinned host memory that grows: what is too small for a DMA of its own is gathered here.
class PinnedBlock {
 public:
  PinnedBlock() = default;
  PinnedBlock(PinnedBlock&& other) noexcept
      : gpu_(std::move(other.gpu_)),
        data_(std::exchange(other.data_, nullptr)),
        capacity_(std::exchange(other.capacity_, 0)) {}
  PinnedBlock& operator=(PinnedBlock&&) = delete;
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  ~PinnedBlock() { reset(); }

  // At least `bytes`; the content is undefined. No copy from or to it may be under way.
  Status reserve(const std::shared_ptr<cuda::Gpu>& gpu, std::size_t bytes) {
    if (bytes <= capacity_) return {};
    reset();
    const std::size_t rounded = std::bit_ceil(std::max(bytes, kSmallestBytes));
    data_ = gpu->allocate_pinned(rounded);
    if (!data_) return {Code::kResourceExhausted, "out of pinned memory"};
    gpu_ = gpu;
    capacity_ = rounded;
    return {};
  }
  std::byte* data() const { return data_; }

 private:
  static constexpr std::size_t kSmallestBytes = std::size_t{64} << 10;

  void reset() {
    if (data_) gpu_->free_pinned(std::exchange(data_, nullptr));
    capacity_ = 0;
  }

  std::shared_ptr<cuda::Gpu> gpu_;
  std::byte* data_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace servolley::ort
