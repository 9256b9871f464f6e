#pragma once

#include <cstddef>
#include <memory>

#include "device/cuda/gpu.h"

namespace servolley::cuda {

// A mapping of another process's device memory. Unmapped when the last holder lets go; the driver
// counts mappings of one handle, so two of them do not know of each other.
class IpcMemory {
 public:
  ~IpcMemory();
  IpcMemory(const IpcMemory&) = delete;
  IpcMemory& operator=(const IpcMemory&) = delete;

  // Device memory.
  std::byte* data() const { return data_; }
  // The whole allocation, which may be more than was asked for.
  std::size_t size() const { return size_; }
  const std::shared_ptr<Gpu>& gpu() const { return gpu_; }

 private:
  friend class Gpu;
  IpcMemory(std::shared_ptr<Gpu> gpu, std::byte* data, std::size_t size)
      : gpu_(std::move(gpu)), data_(data), size_(size) {}

  const std::shared_ptr<Gpu> gpu_;
  std::byte* const data_;
  const std::size_t size_;
};

}  // namespace servolley::cuda
