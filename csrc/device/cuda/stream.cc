#include "device/cuda/stream.h"

#include "device/cuda/functions.h"
#include "device/cuda/gpu.h"

namespace servolley::cuda {

Event& Event::operator=(Event&& other) noexcept {
  if (this != &other) {
    reset();
    gpu_ = std::move(other.gpu_);
    event_ = std::exchange(other.event_, nullptr);
  }
  return *this;
}

void Event::reset() noexcept {
  // A broken context takes its events along; the driver destroys an event that is not reached yet
  // when it is.
  if (event_ && gpu_->make_current().ok()) gpu_->driver().functions().destroy_event(event_);
  event_ = nullptr;
  gpu_.reset();
}

Result<bool> Event::done() const {
  SERVOLLEY_TRY(gpu_->make_current());
  const CUresult result = gpu_->driver().functions().query_event(event_);
  if (result == CUDA_ERROR_NOT_READY) return false;
  SERVOLLEY_TRY(gpu_->take(result, "look at an event"));
  return true;
}

Status Event::wait() const {
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(gpu_->driver().functions().synchronize_event(event_), "wait for an event");
}

Stream& Stream::operator=(Stream&& other) noexcept {
  if (this != &other) {
    reset();
    gpu_ = std::move(other.gpu_);
    stream_ = std::exchange(other.stream_, nullptr);
  }
  return *this;
}

void Stream::reset() noexcept {
  if (stream_ && gpu_->make_current().ok()) gpu_->driver().functions().destroy_stream(stream_);
  stream_ = nullptr;
  gpu_.reset();
}

Status Stream::copy_to_device(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes == 0) return {};  // an empty tensor may lie nowhere
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(
      gpu_->driver().functions().copy_to_device(device_pointer(to), from, bytes, stream_),
      "copy to the device");
}

Status Stream::copy_to_host(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes == 0) return {};  // an empty tensor may lie nowhere
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(
      gpu_->driver().functions().copy_to_host(to, device_pointer(from), bytes, stream_),
      "copy to the host");
}

Status Stream::copy_on_device(std::byte* to, const std::byte* from, std::size_t bytes) {
  if (bytes == 0) return {};  // an empty tensor may lie nowhere
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(gpu_->driver().functions().copy_on_device(device_pointer(to),
                                                              device_pointer(from), bytes, stream_),
                    "copy on the device");
}

Status Stream::fill(std::byte* to, std::byte value, std::size_t bytes) {
  if (bytes == 0) return {};  // an empty tensor may lie nowhere
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(gpu_->driver().functions().fill(
                        device_pointer(to), std::to_integer<unsigned char>(value), bytes, stream_),
                    "fill memory");
}

Status Stream::record(Event& event) {
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(gpu_->driver().functions().record_event(event.native(), stream_),
                    "record an event");
}

Status Stream::wait(const Event& event) {
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(
      gpu_->driver().functions().stream_wait_event(stream_, event.native(), CU_EVENT_WAIT_DEFAULT),
      "wait for an event in a stream");
}

Status Stream::launch_host(HostFunction function, void* argument) {
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(gpu_->driver().functions().launch_host(stream_, function, argument),
                    "launch a host function");
}

Result<bool> Stream::idle() const {
  SERVOLLEY_TRY(gpu_->make_current());
  const CUresult result = gpu_->driver().functions().query_stream(stream_);
  if (result == CUDA_ERROR_NOT_READY) return false;
  SERVOLLEY_TRY(gpu_->take(result, "look at a stream"));
  return true;
}

Status Stream::synchronize() {
  SERVOLLEY_TRY(gpu_->make_current());
  return gpu_->take(gpu_->driver().functions().synchronize_stream(stream_), "wait for a stream");
}

Status Stream::end_capture() {
  SERVOLLEY_TRY(gpu_->make_current());
  const Functions& functions = gpu_->driver().functions();
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  const auto look = [&] {
    return gpu_->take(functions.is_capturing(stream_, &status), "tell whether a stream captures");
  };
  SERVOLLEY_TRY(look());
  if (status == CU_STREAM_CAPTURE_STATUS_NONE) return {};
  CUgraph graph = nullptr;
  const CUresult ended = functions.end_capture(stream_, &graph);
  if (graph) functions.destroy_graph(graph);
  // One that was invalidated before is an error, and over all the same.
  SERVOLLEY_TRY(look());
  if (status == CU_STREAM_CAPTURE_STATUS_NONE) return {};
  SERVOLLEY_TRY(gpu_->take(ended, "end a capture"));
  return internal_error(to_string(gpu_->id()) + ": a capture has no end");
}

}  // namespace servolley::cuda
