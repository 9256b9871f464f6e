#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "device/device.h"
#include "memory/pool.h"
#include "runtime/runner.h"

namespace servolley::ort {

// ONNX Runtime, opened at run time from the library that the installed onnxruntime package carries.
class OrtLibrary {
 public:
  // Opens `path` (libonnxruntime.so...). Sets ORT_DISABLE_TELEMETRY=1 first unless the variable is
  // set. FAILED_PRECONDITION names the path if it cannot be opened or is too old. The library stays
  // mapped until the process ends: ONNX Runtime does not support being unloaded.
  static Result<std::shared_ptr<OrtLibrary>> open(const std::string& path);
  virtual ~OrtLibrary() = default;
  virtual std::string version() const = 0;                 // "1.32.0"
  virtual std::vector<std::string> providers() const = 0;  // "CPUExecutionProvider", ...
};

struct OrtOptions {
  DeviceId device;
  int intra_op_threads = 0;  // 0: the processors that the cgroup and affinity grant
  int inter_op_threads = 1;
  bool parallel_execution = false;
  bool allow_spinning = false;
  int graph_optimization = 99;  // ONNX Runtime's numbers: 0 off, 1 basic, 2 extended, 99 all
  bool memory_arena = true;
  bool memory_pattern = true;
  // Outputs whose shape follows from the inputs are bound to memory of this pool.
  Pool* pool = nullptr;
};

// Loads a model file. INVALID_ARGUMENT if the model is at fault (unreadable, unsupported type,
// external data outside its folder), NOT_FOUND if the file is missing, FAILED_PRECONDITION if the
// device asked for is not available (never a silent fall-back), INTERNAL otherwise.
Result<std::shared_ptr<Runner>> load_model(std::shared_ptr<OrtLibrary> library,
                                           const std::string& path, const OrtOptions& options);

// Processors that this process may use: the least of the affinity mask and the cgroup's CPU quota
// (v1 and v2), rounded up, at least 1.
int granted_processors();

}  // namespace servolley::ort
