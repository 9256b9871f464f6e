#include "device/cuda/gpu.h"

#include <cstring>
#include <utility>

#include "device/cuda/functions.h"
#include "device/cuda/ipc_memory.h"

namespace servolley::cuda {
namespace {

// After these the driver answers every call in this context with the same error.
bool breaks_context(CUresult result) {
  switch (result) {
    case CUDA_ERROR_DEINITIALIZED:
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_NVLINK_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
    case CUDA_ERROR_TENSOR_MEMORY_LEAK:
    case CUDA_ERROR_MPS_CLIENT_TERMINATED:
    case CUDA_ERROR_EXTERNAL_DEVICE:
    case CUDA_ERROR_UNKNOWN:
      return true;
    default:
      return false;
  }
}

// While a thread captures a graph in the global mode, as ONNX Runtime does, the driver refuses
// allocations, waits and looks at events of every thread that is in the global mode, too, which
// threads begin in, and the capture fails by them. So each of ours minds its own captures only; in
// the relaxed mode it would not even mind those, and a capture with a hole would pass for a graph.
void mind_own_captures(const Functions& functions) {
  thread_local bool done = false;
  if (done) return;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
  done = functions.exchange_capture_mode(&mode) == CUDA_SUCCESS;
}

}  // namespace

Gpu::Gpu(std::shared_ptr<const Driver> driver, DeviceInfo info, int device, CUctx_st* context)
    : driver_(std::move(driver)), info_(std::move(info)), device_(device), context_(context) {}

Gpu::~Gpu() { driver_->functions().release_primary_context(device_); }

Status Gpu::make_current() const {
  if (broken()) return health();
  const Functions& functions = driver_->functions();
  mind_own_captures(functions);
  CUcontext current = nullptr;
  functions.current_context(&current);
  if (current == context_) return {};
  return take(functions.set_current_context(context_), "use its context");
}

Status Gpu::take(int code, std::string_view what) const {
  const auto result = static_cast<CUresult>(code);
  if (result == CUDA_SUCCESS) return {};
  std::string message = to_string(id()) + ": ";
  if (!what.empty()) message.append("cannot ").append(what).append(": ");
  message += driver_->describe(result);
  Status status(result == CUDA_ERROR_OUT_OF_MEMORY ? Code::kResourceExhausted : Code::kInternal,
                std::move(message));
  if (breaks_context(result)) mark_broken(driver_->describe(result));
  return status;
}

void Gpu::mark_broken(const std::string& why) const {
  const std::lock_guard lock(mutex_);
  if (breakage_.ok()) {
    breakage_ = Status(Code::kInternal,
                       to_string(id()) + " is broken until the server is restarted: " + why);
  }
  broken_.store(true, std::memory_order_release);
}

void Gpu::give_up(const Status& why) {
  if (broken()) return;
  given_up_.store(true, std::memory_order_release);
  mark_broken(why.message());
}

Status Gpu::health() const {
  if (!broken()) return {};
  const std::lock_guard lock(mutex_);
  return breakage_;
}

Status Gpu::probe() {
  const auto info = memory();
  return info ? Status() : info.error();
}

Result<Gpu::MemoryInfo> Gpu::memory() const {
  SERVOLLEY_TRY(make_current());
  MemoryInfo info;
  SERVOLLEY_TRY(take(driver_->functions().memory_info(&info.free_bytes, &info.total_bytes),
                     "tell its free memory"));
  return info;
}

Memory Gpu::allocate(std::size_t bytes) {
  if (!make_current().ok()) return {};
  CUdeviceptr pointer = 0;
  const auto result = driver_->functions().allocate(&pointer, bytes);
  if (!take(result, "allocate memory").ok()) return {};
  return {device_memory(pointer), false};
}

void Gpu::free(Memory memory, std::size_t) {
  if (!make_current().ok()) return;  // a broken context takes its memory along
  (void)take(driver_->functions().free(device_pointer(memory.data)), "free memory");
}

std::byte* Gpu::allocate_pinned(std::size_t bytes) {
  if (!make_current().ok()) return nullptr;
  void* block = nullptr;
  const auto result = driver_->functions().allocate_host(&block, bytes, CU_MEMHOSTALLOC_PORTABLE);
  if (!take(result, "pin host memory").ok()) return nullptr;
  return static_cast<std::byte*>(block);
}

void Gpu::free_pinned(std::byte* block) {
  if (!make_current().ok()) return;
  (void)take(driver_->functions().free_host(block), "free pinned host memory");
}

bool Gpu::pin(std::byte* pages, std::size_t bytes) {
  if (!make_current().ok()) return false;
  const auto result = driver_->functions().register_host(pages, bytes, CU_MEMHOSTREGISTER_PORTABLE);
  return take(result, "pin host memory").ok();
}

void Gpu::unpin(std::byte* pages) {
  if (!make_current().ok()) return;
  (void)take(driver_->functions().unregister_host(pages), "unpin host memory");
}

Result<Stream> Gpu::create_stream() {
  SERVOLLEY_TRY(make_current());
  CUstream stream = nullptr;
  SERVOLLEY_TRY(
      take(driver_->functions().create_stream(&stream, CU_STREAM_NON_BLOCKING), "create a stream"));
  return Stream(shared_from_this(), stream);
}

Result<Event> Gpu::create_event(EventWait wait) {
  SERVOLLEY_TRY(make_current());
  CUevent event = nullptr;
  unsigned flags = CU_EVENT_DISABLE_TIMING;
  if (wait == EventWait::kSleep) flags |= CU_EVENT_BLOCKING_SYNC;
  SERVOLLEY_TRY(take(driver_->functions().create_event(&event, flags), "create an event"));
  return Event(shared_from_this(), event);
}

Result<std::shared_ptr<const IpcMemory>> Gpu::open_ipc(std::span<const std::byte> handle,
                                                       std::size_t bytes) {
  if (handle.size() != kIpcHandleBytes) {
    return invalid_argument("a CUDA IPC handle has " + std::to_string(kIpcHandleBytes) +
                            " bytes, not " + std::to_string(handle.size()));
  }
  SERVOLLEY_TRY(make_current());
  const Functions& functions = driver_->functions();
  CUipcMemHandle native;
  static_assert(sizeof(native) == kIpcHandleBytes);
  std::memcpy(&native, handle.data(), sizeof(native));
  CUdeviceptr pointer = 0;
  const CUresult opened = functions.open_ipc(&pointer, native, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS);
  if (opened == CUDA_ERROR_OUT_OF_MEMORY) return take(opened, "open a CUDA IPC handle");
  if (opened == CUDA_ERROR_NOT_SUPPORTED) {
    return Status(Code::kFailedPrecondition,
                  to_string(id()) + " cannot open memory of other processes");
  }
  if (opened != CUDA_SUCCESS) {
    // What a client sends must not break the device by its error code alone: ask the context.
    SERVOLLEY_TRY(probe());
    return invalid_argument(
        "the CUDA IPC handle is not one of a living allocation of another "
        "process on " +
        to_string(id()) + ": " + driver_->describe(opened));
  }
  CUdeviceptr base = 0;
  std::size_t size = 0;
  const Status ranged =
      take(functions.address_range(&base, &size, pointer), "tell the size of a CUDA IPC mapping");
  std::shared_ptr<const IpcMemory> memory(new IpcMemory(shared_from_this(), device_memory(pointer),
                                                        ranged.ok() ? size - (pointer - base) : 0));
  SERVOLLEY_TRY(ranged);
  if (bytes > memory->size()) {
    return invalid_argument("the CUDA allocation has " + std::to_string(memory->size()) +
                            " bytes, fewer than " + std::to_string(bytes));
  }
  return memory;
}

IpcMemory::~IpcMemory() {
  if (!gpu_->make_current().ok()) return;
  const Functions& functions = gpu_->driver().functions();
  (void)gpu_->take(functions.close_ipc(device_pointer(data_)), "close a CUDA IPC handle");
}

}  // namespace servolley::cuda
