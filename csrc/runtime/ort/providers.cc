#include <dlfcn.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <utility>

#include "runtime/ort/ort_session.h"

namespace servolley::ort {
namespace {

Status unavailable_device(DeviceId device, const std::string& reason) {
  return {Code::kFailedPrecondition,
          "the model asks for device " + to_string(device) + ", but " + reason};
}

struct CudaLibraries {
  std::mutex mutex;
  std::vector<std::string> paths;  // not opened yet
};

CudaLibraries& cuda_libraries() {
  static CudaLibraries libraries;
  return libraries;
}

// Each needs others of the list, whose order says nothing: whoever cannot be opened yet comes again
// while there is progress.
void open_cuda_libraries() {
  CudaLibraries& libraries = cuda_libraries();
  const std::lock_guard lock(libraries.mutex);
  for (std::size_t before = 0; before != libraries.paths.size();) {
    before = libraries.paths.size();
    std::erase_if(libraries.paths, [](const std::string& path) {
      return ::dlopen(path.c_str(), RTLD_NOW | RTLD_GLOBAL | RTLD_NODELETE) != nullptr;
    });
  }
}

// A provider's options, as texts.
class Keys {
 public:
  void set(const std::string& key, std::string value) {
    entries_.insert_or_assign(key, std::move(value));
  }

  template <class Options>
  abi::Error* pass(abi::Error* (*update)(Options*, const char* const*, const char* const*,
                                         std::size_t),
                   Options* options) const {
    std::vector<const char*> keys;
    std::vector<const char*> values;
    for (const auto& [key, value] : entries_) {
      keys.push_back(key.c_str());
      values.push_back(value.c_str());
    }
    return update(options, keys.data(), values.data(), keys.size());
  }

 private:
  std::map<std::string, std::string> entries_;
};

// What both providers are told: which GPU, and to compute in our stream.
Keys common_keys(const GpuSession& gpu) {
  Keys keys;
  keys.set("device_id", std::to_string(gpu.gpu.device->id().index));
  keys.set("has_user_compute_stream", "1");
  keys.set("user_compute_stream",
           std::to_string(reinterpret_cast<std::uintptr_t>(gpu.compute.native())));
  return keys;
}

Keys cuda_keys(const OrtOptions& wanted, const GpuSession& gpu, bool graphs) {
  Keys keys = common_keys(gpu);
  // The exhaustive default of the convolution search stalls on every shape seen for the first time.
  keys.set("cudnn_conv_algo_search", "HEURISTIC");
  // The default doubles what it has; others want to live on the GPU, too.
  keys.set("arena_extend_strategy", "kSameAsRequested");
  if (wanted.gpu_memory_bytes > 0) {
    keys.set("gpu_mem_limit", std::to_string(wanted.gpu_memory_bytes));
  }
  for (const auto& [key, value] : wanted.cuda_options) keys.set(key, value);
  if (graphs) keys.set("enable_cuda_graph", "1");
  return keys;
}

Keys tensorrt_keys(const TensorRtOptions& wanted, const GpuSession& gpu) {
  Keys keys = common_keys(gpu);
  if (wanted.precision != "fp32") keys.set("trt_" + wanted.precision + "_enable", "1");
  if (!wanted.cache.empty()) {
    keys.set("trt_engine_cache_enable", "1");
    keys.set("trt_engine_cache_path", wanted.cache);
    keys.set("trt_timing_cache_enable", "1");
    keys.set("trt_timing_cache_path", wanted.cache);
  }
  for (const auto& [key, value] : wanted.others) keys.set(key, value);
  return keys;
}

Status need(const OrtLibrary& library, DeviceId device, std::string_view provider,
            const char* what) {
  const auto providers = library.providers();
  if (std::find(providers.begin(), providers.end(), provider) != providers.end()) return {};
  return unavailable_device(device, "this ONNX Runtime " + library.version() + " has no " + what +
                                        " execution provider; install the onnxruntime-gpu "
                                        "package instead of onnxruntime");
}

}  // namespace

Status check_gpu_support(const OrtLibrary& library, DeviceId device) {
  return need(library, device, "CUDAExecutionProvider", "CUDA");
}

void set_cuda_libraries(std::vector<std::string> paths) {
  CudaLibraries& libraries = cuda_libraries();
  const std::lock_guard lock(libraries.mutex);
  libraries.paths = std::move(paths);
}

Status append_providers(const Library& library, const OrtOptions& wanted, const GpuSession& gpu,
                        bool graphs, abi::SessionOptions* options) {
  const abi::Functions& api = library.api();
  const DeviceId device = gpu.gpu.device->id();
  SERVOLLEY_TRY(check_gpu_support(library, device));
  if (wanted.tensorrt) {
    SERVOLLEY_TRY(need(library, device, "TensorrtExecutionProvider", "TensorRT"));
  }
  open_cuda_libraries();
  const auto take = [&](abi::Error* error) -> Status {
    const Status status = library.take(error, Phase::kLoad);
    return status.ok() ? Status() : unavailable_device(device, status.message());
  };
  // In the order of their precedence.
  if (wanted.tensorrt) {
    abi::TensorRtOptions* raw = nullptr;
    SERVOLLEY_TRY(take(api.create_tensorrt_options(&raw)));
    const auto tensorrt = own(raw, api.release_tensorrt_options);
    SERVOLLEY_TRY(
        take(tensorrt_keys(*wanted.tensorrt, gpu).pass(api.update_tensorrt_options, raw)));
    SERVOLLEY_TRY(take(api.append_tensorrt(options, raw)));
  }
  abi::CudaOptions* raw = nullptr;
  SERVOLLEY_TRY(take(api.create_cuda_options(&raw)));
  const auto cuda = own(raw, api.release_cuda_options);
  SERVOLLEY_TRY(take(cuda_keys(wanted, gpu, graphs).pass(api.update_cuda_options, raw)));
  return take(api.append_cuda(options, raw));
}

}  // namespace servolley::ort
