#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "device/cuda/gpu.h"
#include "memory/pool.h"
#include "runtime/runner.h"

namespace servolley::ort {

// ONNX Runtime, opened at run time from the library that the installed onnxruntime package carries.
class OrtLibrary {
 public:
  // Opens `path` (libonnxruntime.so...). Sets ORT_DISABLE_TELEMETRY=1 first unless the variable is
  // set. FAILED_PRECONDITION names the path if it cannot be opened or is too old. The library stays
  // mapped until the process ends: ONNX Runtime does not support being unloaded.
  //
  // With `arena_limit_bytes` all sessions share one arena for what a run needs (weights lie outside
  // it): a run that would take more is RESOURCE_EXHAUSTED, however large a client's numbers make
  // it. With 0 every session has an arena of its own without a limit. ONNX Runtime keeps the shared
  // arena per process, whatever number of libraries is open, so a process opens one with a limit.
  static Result<std::shared_ptr<OrtLibrary>> open(const std::string& path,
                                                  std::size_t arena_limit_bytes = 0);
  virtual ~OrtLibrary() = default;
  virtual std::string version() const = 0;                 // "1.32.0"
  virtual std::vector<std::string> providers() const = 0;  // "CPUExecutionProvider", ...
};

// Receives what ONNX Runtime logs (warnings and worse): severity 2 warning, 3 error, 4 fatal, and
// one line of text. Called from any thread. nullptr = stderr, which is also the default.
using LogSink = void (*)(int severity, std::string_view message);
void set_log_sink(LogSink sink);

// A GPU to run on, and where the tensors of its batches lie. `memory` must outlive the runner; it
// is trimmed when a model goes.
struct OrtGpu {
  std::shared_ptr<cuda::Gpu> device;
  Pool* memory = nullptr;
};

// The TensorRT provider: what it cannot take runs on CUDA's.
struct TensorRtOptions {
  std::string precision = "fp32";  // or "fp16", "bf16", "int8": what it may compute with
  std::string cache;               // folder for the engines that it builds; "" = built every time
  std::map<std::string, std::string> others;  // the provider's own keys
};

struct OrtOptions {
  // One session, with one copy of the weights, on each; none: on the CPU.
  std::vector<OrtGpu> gpus;
  std::size_t gpu_memory_bytes = 0;  // what the runtime may take on a GPU for this model; 0 = all
  bool cuda_graphs = false;          // captured where the model allows it
  std::map<std::string, std::string> cuda_options;  // more of the CUDA provider's own keys
  std::optional<TensorRtOptions> tensorrt;
  std::string name;  // of the model, for the log
  // 0: the processors that the cgroup and affinity grant; on GPUs one.
  int intra_op_threads = 0;
  int inter_op_threads = 1;
  bool parallel_execution = false;
  // Threads of the runtime that have nothing to do burn their processors, as long as it sees fit
  // and between runs as well.
  bool allow_spinning = false;
  // Otherwise, how long they look for more within a run before they sleep: from one operator to the
  // next is sooner than the system wakes anybody. On the CPU, from ONNX Runtime 1.26 on; 0: not at
  // all.
  int spin_us = 100;
  int graph_optimization = 99;  // ONNX Runtime's numbers: 0 off, 1 basic, 2 extended, 99 all
  bool memory_arena = true;
  // One block for all that a run computes, planned anew for each shape of the inputs and remembered
  // for good. Batches come in many sizes: for resnet50 at 64 rows it takes 440 MB more than the
  // arena's own reuse, and saves no time that can be measured.
  bool memory_pattern = false;
  // Gives what a run left unused in the arena back to the system after every run: less resident
  // memory for a slower run.
  bool shrink_arena = false;
  // A run whose output is larger than this is answered with RESOURCE_EXHAUSTED: what a model makes
  // of a client's numbers (Expand, Tile, NonZero) must have a limit.
  std::size_t max_output_bytes = std::size_t{2} << 30;
  // How far loading stands back behind serving (see QuietWork); 0 = not at all. The session's own
  // threads do not: they serve later.
  int load_niceness = 0;
  // Where outputs whose shape follows from the inputs, and what must be copied, lie. Host memory;
  // required; must outlive the runner and every output.
  Pool* pool = nullptr;
};

// Loads a model file. INVALID_ARGUMENT if the model is at fault (unreadable, unsupported type,
// external data outside its folder), NOT_FOUND if the file is missing, FAILED_PRECONDITION if the
// device asked for is not available (never a silent fall-back), INTERNAL otherwise.
Result<std::shared_ptr<Runner>> load_model(std::shared_ptr<OrtLibrary> library,
                                           const std::string& path, const OrtOptions& options);

// FAILED_PRECONDITION, which says what to install, if the library cannot run on GPUs.
Status check_gpu_support(const OrtLibrary& library, DeviceId device);

// Libraries that the CUDA providers need and the loader does not find by itself: those of the
// nvidia-* packages, by their paths. Opened, each with whatever it needs of the others, when the
// first model asks for a GPU; what cannot be opened is left to the loader. For the whole process.
void set_cuda_libraries(std::vector<std::string> paths);

}  // namespace servolley::ort
