#include "runtime/ort/ort_session.h"

namespace servolley::ort {
namespace {

Status unavailable_device(DeviceId device, const std::string& reason) {
  return {Code::kFailedPrecondition,
          "the model asks for device " + to_string(device) + ", but " + reason};
}

Status append_cuda(const Library& library, DeviceId device, abi::SessionOptions* options) {
  const abi::Functions& api = library.api();
  const auto take = [&](abi::Error* error) -> Status {
    const Status status = library.take(error, Phase::kLoad);
    return status.ok() ? Status() : unavailable_device(device, status.message());
  };
  abi::CudaOptions* raw = nullptr;
  SERVOLLEY_TRY(take(api.create_cuda_options(&raw)));
  const auto cuda = own(raw, api.release_cuda_options);
  const std::string index = std::to_string(device.index);
  // The exhaustive default of the convolution search stalls on every shape seen for the first time.
  const char* keys[] = {"device_id", "cudnn_conv_algo_search"};
  const char* values[] = {index.c_str(), "HEURISTIC"};
  SERVOLLEY_TRY(take(api.update_cuda_options(raw, keys, values, 2)));
  return take(api.append_cuda(options, raw));
}

}  // namespace

Status append_provider(const Library& library, DeviceId device, abi::SessionOptions* options) {
  if (device.kind == DeviceKind::kCpu) return {};  // always there
  if (!library.has_provider("CUDAExecutionProvider")) {
    return unavailable_device(device, "this ONNX Runtime " + library.version() +
                                          " has no CUDA execution provider; install the "
                                          "onnxruntime-gpu package instead of onnxruntime");
  }
  return append_cuda(library, device, options);
}

}  // namespace servolley::ort
