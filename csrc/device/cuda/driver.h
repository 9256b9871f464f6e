#pragma once

// device/cuda [layer 2]: NVIDIA GPUs through their driver, which is opened at run time. Nothing
// here needs a GPU, a driver or a CUDA library to build, and nothing is opened before it is asked
// for. cuda.h is behind functions.h, which the .cc files of this folder include and nobody else.

#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/status.h"

namespace servolley::cuda {

class Gpu;
struct Functions;

struct DeviceInfo {
  int index = 0;     // N of "cuda:N", the driver's own order
  std::string name;  // "NVIDIA H100 80GB HBM3"
  std::string uuid;  // "GPU-...", as nvidia-smi prints it
  std::size_t total_bytes = 0;
  int compute_major = 0;
  int compute_minor = 0;
};

// The driver's functions. Thread-safe.
class Driver : public std::enable_shared_from_this<Driver> {
 public:
  // CUDA 12.0 (driver 525): what ONNX Runtime's CUDA packages ask for, too.
  static constexpr int kOldestVersion = 12000;

  // FAILED_PRECONDITION if there is no driver, if it is older than kOldestVersion, or if it finds
  // no device. The library stays mapped until the process ends: drivers do not support being
  // unloaded.
  static Result<std::shared_ptr<Driver>> open(const std::string& path = "libcuda.so.1");
  ~Driver();
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;

  // 12040 = CUDA 12.4.
  int version() const { return version_; }
  int device_count() const { return device_count_; }
  // What the driver knows without a context, so looking costs no device memory.
  Result<std::vector<DeviceInfo>> devices() const;
  // The device with its primary context, which ONNX Runtime uses, too. Whoever asks for the same
  // device gets the same Gpu. FAILED_PRECONDITION if there is no such device.
  Result<std::shared_ptr<Gpu>> gpu(int index);

  const Functions& functions() const { return *functions_; }
  // The name and the sentence that the driver has for a result code.
  std::string describe(int result) const;

 private:
  Driver(std::unique_ptr<const Functions> functions, int version, int device_count);
  Result<DeviceInfo> device_info(int index) const;

  const std::unique_ptr<const Functions> functions_;
  const int version_;
  const int device_count_;
  std::mutex mutex_;
  std::vector<std::weak_ptr<Gpu>> gpus_;  // guarded; by index
};

}  // namespace servolley::cuda
