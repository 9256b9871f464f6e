#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "device/cuda/gpu.h"
#include "device/host_device.h"
#include "memory/pool.h"

namespace servolley::engine {

// "9.0"
std::string compute_capability(const cuda::DeviceInfo& info);

// The one of `files` (by compute capability) that is for these GPUs, or else `otherwise`.
// INVALID_ARGUMENT where they need different ones.
Result<std::string> file_for(std::span<const cuda::DeviceInfo> gpus,
                             const std::map<std::string, std::string>& files,
                             const std::string& otherwise);

// A GPU in use, and the pool over its memory.
struct GpuInUse {
  std::shared_ptr<cuda::Gpu> device;
  std::unique_ptr<Pool> memory;
};

// The GPUs that models, or clients' memory, need. The driver is opened when the first is asked for;
// from then on the host pool hands out pinned memory. Thread-safe; a GPU in use stays so until the
// end.
class Gpus {
 public:
  // `library` is the driver's; `memory_bytes` the ceiling of each GPU's pool, 0 = what the GPU has.
  Gpus(std::string library, std::size_t memory_bytes, HostDevice& host, Pool& host_pool);

  // FAILED_PRECONDITION if there is no driver or no such device. May take a second: not for the
  // loop thread.
  Result<GpuInUse*> use(int index);
  // What the driver finds; none is in use by that. FAILED_PRECONDITION if there is no driver.
  Result<std::vector<cuda::DeviceInfo>> devices();
  // Every GPU. FAILED_PRECONDITION if there is none.
  Result<std::vector<DeviceId>> all();
  // The GPU for whoever would rather have one than the CPU: the largest, the first of equals. The
  // CPU where there is none.
  DeviceId best();
  // Those in use. Opens nothing.
  std::vector<GpuInUse*> in_use() const;

 private:
  Result<std::shared_ptr<cuda::Driver>> driver();

  const std::string library_;
  const std::size_t memory_bytes_;
  HostDevice& host_;
  Pool& host_pool_;
  std::mutex opening_mutex_;                       // held while the driver and devices are opened
  std::shared_ptr<cuda::Driver> driver_;           // guarded by opening_mutex_
  mutable std::mutex mutex_;                       // held for a moment, so that the loop may look
  std::vector<std::unique_ptr<GpuInUse>> in_use_;  // guarded by mutex_; only grows
};

}  // namespace servolley::engine
