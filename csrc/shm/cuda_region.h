#pragma once

#include "device/cuda/ipc_memory.h"
#include "device/cuda/stream.h"
#include "shm/region.h"

namespace servolley::shm {

// An allocation of another process on a GPU. The client may write to it while it is read, as it may
// in any memory that is shared. It is to be unregistered before its owner frees it: what a mapping
// leads to after that NVIDIA leaves undefined.
class CudaRegion final : public Region {
 public:
  // The first `bytes` of the memory. INVALID_ARGUMENT if there are none or not so many.
  static Result<std::shared_ptr<const Region>> open(std::string_view name, std::uint64_t bytes,
                                                    std::shared_ptr<const cuda::IpcMemory> memory,
                                                    std::shared_ptr<Usage> usage);

  DeviceId device() const override { return memory_->gpu()->id(); }
  std::byte* device_data() const override { return memory_->data(); }

  // Any thread; both wait for the copy, and for copies of other threads before it. INTERNAL if the
  // device is broken.
  Status read(std::uint64_t offset, std::span<std::byte> to) const override;
  Status write(std::uint64_t offset, std::span<const std::byte> from) const override;

 private:
  CudaRegion(std::string_view name, std::uint64_t bytes,
             std::shared_ptr<const cuda::IpcMemory> memory, cuda::Stream stream,
             std::shared_ptr<Usage> usage);

  const std::shared_ptr<const cuda::IpcMemory> memory_;
  mutable cuda::Stream stream_;  // of its own: copies wait for nobody's batches
};

}  // namespace servolley::shm
