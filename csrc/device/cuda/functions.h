#pragma once

// The driver's functions that we call, by the names under which the library exports them. cuda.h
// gives each name its type. Names of version 2 are those that every driver since CUDA 12 has.

#include <cuda.h>

#include "base/status.h"

// X(our name, the driver's)
#define SERVOLLEY_CUDA_FUNCTIONS(X)                           \
  X(init, cuInit)                                             \
  X(error_name, cuGetErrorName)                               \
  X(error_text, cuGetErrorString)                             \
  X(device_count, cuDeviceGetCount)                           \
  X(device, cuDeviceGet)                                      \
  X(device_name, cuDeviceGetName)                             \
  X(device_uuid, cuDeviceGetUuid_v2)                          \
  X(device_memory, cuDeviceTotalMem_v2)                       \
  X(device_attribute, cuDeviceGetAttribute)                   \
  X(retain_primary_context, cuDevicePrimaryCtxRetain)         \
  X(release_primary_context, cuDevicePrimaryCtxRelease_v2)    \
  X(current_context, cuCtxGetCurrent)                         \
  X(set_current_context, cuCtxSetCurrent)                     \
  X(exchange_capture_mode, cuThreadExchangeStreamCaptureMode) \
  X(memory_info, cuMemGetInfo_v2)                             \
  X(allocate, cuMemAlloc_v2)                                  \
  X(free, cuMemFree_v2)                                       \
  X(address_range, cuMemGetAddressRange_v2)                   \
  X(allocate_host, cuMemHostAlloc)                            \
  X(free_host, cuMemFreeHost)                                 \
  X(register_host, cuMemHostRegister_v2)                      \
  X(unregister_host, cuMemHostUnregister)                     \
  X(open_ipc, cuIpcOpenMemHandle_v2)                          \
  X(close_ipc, cuIpcCloseMemHandle)                           \
  X(copy_to_device, cuMemcpyHtoDAsync_v2)                     \
  X(copy_to_host, cuMemcpyDtoHAsync_v2)                       \
  X(copy_on_device, cuMemcpyDtoDAsync_v2)                     \
  X(fill, cuMemsetD8Async)                                    \
  X(create_stream, cuStreamCreate)                            \
  X(destroy_stream, cuStreamDestroy_v2)                       \
  X(query_stream, cuStreamQuery)                              \
  X(synchronize_stream, cuStreamSynchronize)                  \
  X(stream_wait_event, cuStreamWaitEvent)                     \
  X(launch_host, cuLaunchHostFunc)                            \
  X(is_capturing, cuStreamIsCapturing)                        \
  X(end_capture, cuStreamEndCapture)                          \
  X(destroy_graph, cuGraphDestroy)                            \
  X(create_event, cuEventCreate)                              \
  X(destroy_event, cuEventDestroy_v2)                         \
  X(record_event, cuEventRecord)                              \
  X(query_event, cuEventQuery)                                \
  X(synchronize_event, cuEventSynchronize)

namespace servolley::cuda {

struct Functions {
// NOLINTNEXTLINE(bugprone-macro-parentheses): a member's name cannot stand in them
#define SERVOLLEY_CUDA_MEMBER(name, symbol) decltype(&::symbol) name = nullptr;
  SERVOLLEY_CUDA_FUNCTIONS(SERVOLLEY_CUDA_MEMBER)
#undef SERVOLLEY_CUDA_MEMBER
};

// The driver writes addresses as integers, the rest of the house as pointers.
inline std::byte* device_memory(CUdeviceptr pointer) {
  return reinterpret_cast<std::byte*>(pointer);  // NOLINT(performance-no-int-to-ptr)
}
inline CUdeviceptr device_pointer(const std::byte* memory) {
  return reinterpret_cast<CUdeviceptr>(memory);
}

}  // namespace servolley::cuda
