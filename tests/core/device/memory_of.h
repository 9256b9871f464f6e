#pragma once

#include <doctest/doctest.h>

#include <cstddef>
#include <cstring>

#include "device/cuda/gpu.h"

namespace servolley::testing {

// Memory of the GPU and pinned memory of the host, for as long as a test needs it.
class DeviceBytes {
 public:
  DeviceBytes(cuda::Gpu& gpu, std::size_t bytes)
      : gpu_(gpu), bytes_(bytes), memory_(gpu.allocate(bytes)) {
    REQUIRE(memory_.data);
  }
  ~DeviceBytes() { gpu_.free(memory_, bytes_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  std::byte* data() const { return memory_.data; }

 private:
  cuda::Gpu& gpu_;
  const std::size_t bytes_;
  const Memory memory_;
};

class PinnedBytes {
 public:
  PinnedBytes(cuda::Gpu& gpu, std::size_t bytes, int value = 0)
      : gpu_(gpu), bytes_(bytes), data_(gpu.allocate_pinned(bytes)) {
    REQUIRE(data_);
    std::memset(data_, value, bytes);
  }
  ~PinnedBytes() { gpu_.free_pinned(data_); }
  PinnedBytes(const PinnedBytes&) = delete;
  PinnedBytes& operator=(const PinnedBytes&) = delete;
  std::byte* data() const { return data_; }
  bool all(int value) const {
    for (std::size_t i = 0; i < bytes_; ++i) {
      if (data_[i] != static_cast<std::byte>(value)) return false;
    }
    return true;
  }

 private:
  cuda::Gpu& gpu_;
  const std::size_t bytes_;
  std::byte* const data_;
};

}  // namespace servolley::testing
