// Streams that capture: what is queued in them is recorded for a graph instead of being run. What
// graphs do is not here: whoever launches one here queues its work himself.

#include <unistd.h>

#include <utility>

#include "world.h"

namespace standin {
namespace {

// Whether a thread in `mode` may not make unsafe calls because of this capture.
bool forbids(const Capture& capture, CUstreamCaptureMode mode) {
  if (capture.status == CU_STREAM_CAPTURE_STATUS_NONE) return false;
  const bool own = capture.thread == ::gettid();
  if (mode == CU_STREAM_CAPTURE_MODE_RELAXED) return false;
  if (own) return capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED;
  return mode == CU_STREAM_CAPTURE_MODE_GLOBAL && capture.mode == CU_STREAM_CAPTURE_MODE_GLOBAL;
}

}  // namespace

CUstreamCaptureMode& thread_capture_mode() {
  thread_local CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  return mode;
}

CUresult World::unsafe_call() {
  CUresult result = CUDA_SUCCESS;
  for (CUstream_st& stream : streams) {
    if (!forbids(stream.capture, thread_capture_mode())) continue;
    stream.capture.status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
    result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  }
  return result;
}

CUresult World::spoil(CUstream_st& stream, CUresult result) {
  switch (stream.capture.status) {
    case CU_STREAM_CAPTURE_STATUS_NONE:
      return CUDA_SUCCESS;
    case CU_STREAM_CAPTURE_STATUS_INVALIDATED:
      return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    default:
      stream.capture.status = CU_STREAM_CAPTURE_STATUS_INVALIDATED;
      return result;
  }
}

CUresult Call::check(CUstream stream, CUevent event) {
  if (const CUresult bad = check(event); bad != CUDA_SUCCESS) return bad;
  if (stream->capture.status == CU_STREAM_CAPTURE_STATUS_NONE) {
    if (!event->captured) return CUDA_SUCCESS;
    // It would be captured, too; nobody here means that.
    return wrong(CUDA_ERROR_CAPTURED_EVENT, "a stream that does not capture waits for a capture");
  }
  return event->captured ? CUDA_SUCCESS
                         : world_.spoil(*stream, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
}

}  // namespace standin

using namespace standin;

extern "C" {

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* mode) {
  Call call(__func__, Call::kDriver);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  std::swap(thread_capture_mode(), *mode);
  return CUDA_SUCCESS;
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  if (stream->capture.status != CU_STREAM_CAPTURE_STATUS_NONE) return CUDA_ERROR_ILLEGAL_STATE;
  stream->capture = {CU_STREAM_CAPTURE_STATUS_ACTIVE, mode, ::gettid(), 0};
  return CUDA_SUCCESS;
}

CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  *status = stream->capture.status;
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  Capture& capture = stream->capture;
  *graph = nullptr;
  if (capture.status == CU_STREAM_CAPTURE_STATUS_NONE) return CUDA_ERROR_ILLEGAL_STATE;
  if (capture.thread != ::gettid() && capture.mode != CU_STREAM_CAPTURE_MODE_RELAXED) {
    return call.wrong(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, "another thread began it");
  }
  const Capture over = std::exchange(capture, {});
  if (over.status == CU_STREAM_CAPTURE_STATUS_INVALIDATED) {
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  *graph = &call.world().graphs.emplace_back();
  (*graph)->nodes = over.tasks;
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  for (CUgraph_st& known : call.world().graphs) {
    if (&known != graph || !known.alive) continue;
    known.alive = false;
    return CUDA_SUCCESS;
  }
  return call.wrong(CUDA_ERROR_INVALID_HANDLE, "no such graph");
}

}  // extern "C"
