// Streams, each with a thread that works off its queue, and events.

#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <thread>
#include <utility>

#include "world.h"

namespace standin {

bool World::ready(const CUstream_st& stream) {
  const Task& task = stream.tasks.front();
  Device& on = device(stream.device);
  if (on.broken != CUDA_SUCCESS) return true;  // skipped, not run
  if (task.waits && task.event->reached < task.ticket) return false;
  if (std::find(held.begin(), held.end(), task.what) != held.end()) return false;
  return task.unit == Unit::kNone || !on.busy[static_cast<std::size_t>(task.unit)];
}

CUresult World::enqueue(CUstream_st& stream, Task task) {
  if (stream.capture.status == CU_STREAM_CAPTURE_STATUS_INVALIDATED) {
    return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  }
  const bool captures = stream.capture.status == CU_STREAM_CAPTURE_STATUS_ACTIVE;
  if (task.event && !task.waits) task.event->captured = captures;
  if (captures) {
    ++stream.capture.tasks;
    return CUDA_SUCCESS;
  }
  if (task.event && !task.waits) task.ticket = ++task.event->recorded;
  ++stream.queued;
  stream.tasks.push_back(std::move(task));
  changed.notify_all();
  return CUDA_SUCCESS;
}

CUresult World::finish(std::unique_lock<std::mutex>& lock, CUstream_st& stream) {
  const std::uint64_t all = stream.queued;
  changed.wait(lock, [&] { return stream.finished >= all; });
  return device(stream.device).broken;
}

void World::finish_device(std::unique_lock<std::mutex>& lock, int index) {
  for (std::size_t i = 0; i < streams.size(); ++i) {
    if (streams[i].device == index) (void)finish(lock, streams[i]);
  }
}

// Copies from or to pages of the caller's. A device goes on with them when their file has become
// shorter; here they are gone, and the kernel says so without a signal.
static void copy_pages(std::byte* to, const std::byte* from, std::size_t bytes) {
  const iovec target{to, bytes};
  const iovec source{const_cast<std::byte*>(from), bytes};
  // Where both are there this copies everything at once; else whatever is before the hole.
  (void)::process_vm_readv(::getpid(), &target, 1, &source, 1, 0);
}

// Runs one task without the lock. What it touches was alive when it began.
static void perform(const Task& task, std::byte* to, const std::byte* from) {
  const auto until = Clock::now() + task.least;
  if (task.fill >= 0) {
    std::memset(to, task.fill, task.bytes);
  } else if (task.registered) {
    copy_pages(to, from, task.bytes);
  } else if (to && task.bytes > 0) {
    std::memcpy(to, task.staged.empty() ? from : task.staged.data(), task.bytes);
  }
  if (task.function) {
    in_host_function() = task.what == "host_function";
    task.function(task.argument);
    in_host_function() = false;
  }
  if (task.least.count() > 0) std::this_thread::sleep_until(until);
}

void run_stream(CUstream_st& stream) {
  World& world = World::get();
  std::unique_lock lock(world.mutex);
  while (true) {
    world.changed.wait(lock,
                       [&] { return stream.tasks.empty() ? !stream.alive : world.ready(stream); });
    if (stream.tasks.empty()) return;
    Task task = std::move(stream.tasks.front());
    stream.tasks.pop_front();
    Device& device = world.device(stream.device);
    const auto dead = [&](const std::byte* at) {
      return at && !world.find(at, task.bytes) && !world.pinned(at, task.bytes);
    };
    if (device.broken == CUDA_SUCCESS && task.unit != Unit::kNone) {
      CUresult failed = world.take_failure(task.what);
      // Ordinary host memory cannot be told from freed memory; the sanitizer does that.
      if ((task.what == "copy_to_device" && dead(task.to)) ||
          (task.what == "copy_to_host" && dead(task.from)) ||
          ((task.what == "copy_on_device" || task.what == "fill") &&
           (dead(task.to) || dead(task.from)))) {
        world.misused(task.what + ": on memory that was freed meanwhile");
        failed = CUDA_ERROR_ILLEGAL_ADDRESS;
      }
      if (failed != CUDA_SUCCESS) device.broken = failed;
    }
    if (device.broken == CUDA_SUCCESS && !task.what.empty()) {
      const bool exclusive = task.unit != Unit::kNone;
      if (exclusive) device.busy[static_cast<std::size_t>(task.unit)] = true;
      std::byte* const to = task.to ? world.host_address(task.to) : nullptr;
      const std::byte* const from = task.from ? world.host_address(task.from) : nullptr;
      task.registered = world.registration(task.to, 1) || world.registration(task.from, 1);
      world.log(task.what, kStandinBegin, stream.device, stream.number, task.bytes);
      lock.unlock();
      perform(task, to, from);
      lock.lock();
      world.log(task.what, kStandinEnd, stream.device, stream.number, task.bytes);
      if (exclusive) device.busy[static_cast<std::size_t>(task.unit)] = false;
    }
    if (task.event && !task.waits) task.event->reached = std::max(task.event->reached, task.ticket);
    ++stream.finished;
    world.changed.notify_all();
  }
}

}  // namespace standin

using namespace standin;

namespace {

constexpr std::size_t kStagedBytes = 64 << 10;

std::chrono::microseconds copy_time(const Settings& settings, std::size_t bytes) {
  std::size_t us = static_cast<std::size_t>(settings.copy_us);
  if (settings.bytes_per_us > 0) us += bytes / settings.bytes_per_us;
  return std::chrono::microseconds(us);
}

}  // namespace

extern "C" {

CUresult cuStreamCreate(CUstream* out, unsigned int flags) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (flags & ~static_cast<unsigned>(CU_STREAM_NON_BLOCKING)) return CUDA_ERROR_INVALID_VALUE;
  World& world = call.world();
  CUstream_st& stream = world.streams.emplace_back();
  stream.number = ++world.streams_made;
  stream.device = call.device();
  std::thread([&stream] { run_stream(stream); }).detach();
  *out = &stream;
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy(CUstream stream) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  stream->alive = false;
  call.world().changed.notify_all();
  return CUDA_SUCCESS;
}

CUresult cuStreamQuery(CUstream stream) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  const CUresult bad = call.world().spoil(*stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  if (bad != CUDA_SUCCESS) return bad;
  return stream->finished == stream->queued ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuStreamSynchronize(CUstream stream) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  const CUresult bad = call.world().spoil(*stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
  if (bad != CUDA_SUCCESS) return bad;
  const HostWait wait(call.world(), __func__, call.device(), stream->number);
  return call.world().finish(call.lock(), *stream);
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned int flags) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  if (const CUresult bad = call.check(stream, event); bad != CUDA_SUCCESS) return bad;
  if (flags != CU_EVENT_WAIT_DEFAULT) return CUDA_ERROR_INVALID_VALUE;
  Task task;
  task.event = event;
  task.ticket = event->recorded;
  task.waits = true;
  return call.world().enqueue(*stream, std::move(task));
}

CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* argument) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  Task task;
  task.what = "host_function";
  task.function = function;
  task.argument = argument;
  return call.world().enqueue(*stream, std::move(task));
}

CUresult cuEventCreate(CUevent* out, unsigned int) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  CUevent_st& event = call.world().events.emplace_back();
  event.device = call.device();
  *out = &event;
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy(CUevent event) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(event); bad != CUDA_SUCCESS) return bad;
  event->alive = false;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  if (const CUresult bad = call.check(event); bad != CUDA_SUCCESS) return bad;
  if (event->device != stream->device) {
    return call.wrong(CUDA_ERROR_INVALID_HANDLE, "an event of another device");
  }
  Task task;
  task.event = event;
  return call.world().enqueue(*stream, std::move(task));
}

CUresult cuEventQuery(CUevent event) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(event); bad != CUDA_SUCCESS) return bad;
  if (event->captured) return CUDA_ERROR_CAPTURED_EVENT;
  return event->reached >= event->recorded ? CUDA_SUCCESS : CUDA_ERROR_NOT_READY;
}

CUresult cuEventSynchronize(CUevent event) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(event); bad != CUDA_SUCCESS) return bad;
  if (event->captured) return CUDA_ERROR_CAPTURED_EVENT;
  const HostWait wait(call.world(), __func__, event->device, 0);
  const std::uint64_t ticket = event->recorded;
  call.world().changed.wait(call.lock(), [&] { return event->reached >= ticket; });
  return call.world().device(event->device).broken;
}

CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  World& world = call.world();
  if (!world.find(reinterpret_cast<void*>(to), bytes)) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not (all of it) device memory");
  }
  if (world.find(from, 1)) return call.wrong(CUDA_ERROR_INVALID_VALUE, "from device memory");
  Task task;
  task.what = "copy_to_device";
  task.unit = Unit::kUp;
  task.least = copy_time(world.settings, bytes);
  task.to = reinterpret_cast<std::byte*>(to);
  task.from = static_cast<const std::byte*>(from);
  task.bytes = bytes;
  // Of memory that is not pinned the driver takes little at once, and waits with much.
  if (!world.pinned(from, bytes)) {
    const CUresult bad = world.spoil(*stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (bad != CUDA_SUCCESS) return bad;
  }
  const bool waits = !world.pinned(from, bytes) && bytes > kStagedBytes;
  if (!world.pinned(from, bytes) && !waits) task.staged.assign(task.from, task.from + bytes);
  const CUresult queued = world.enqueue(*stream, std::move(task));
  if (queued != CUDA_SUCCESS || !waits) return queued;
  const HostWait wait(world, "pageable_copy", call.device(), stream->number, bytes);
  return world.finish(call.lock(), *stream);
}

CUresult cuMemcpyDtoHAsync(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  World& world = call.world();
  if (!world.find(reinterpret_cast<void*>(from), bytes)) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not (all of it) device memory");
  }
  if (world.find(to, 1)) return call.wrong(CUDA_ERROR_INVALID_VALUE, "to device memory");
  Task task;
  task.what = "copy_to_host";
  task.unit = Unit::kDown;
  task.least = copy_time(world.settings, bytes);
  task.to = static_cast<std::byte*>(to);
  task.from = reinterpret_cast<const std::byte*>(from);
  task.bytes = bytes;
  const bool waits = !world.pinned(to, bytes);
  if (waits) {
    const CUresult bad = world.spoil(*stream, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    if (bad != CUDA_SUCCESS) return bad;
  }
  const CUresult queued = world.enqueue(*stream, std::move(task));
  if (queued != CUDA_SUCCESS || !waits) return queued;
  const HostWait wait(world, "pageable_copy", call.device(), stream->number, bytes);
  return world.finish(call.lock(), *stream);
}

CUresult cuMemcpyDtoDAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  World& world = call.world();
  if (!world.find(reinterpret_cast<void*>(to), bytes) ||
      !world.find(reinterpret_cast<void*>(from), bytes)) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not (all of it) device memory");
  }
  Task task;
  task.what = "copy_on_device";
  task.unit = Unit::kCompute;
  task.least = std::chrono::microseconds(world.settings.copy_us);
  task.to = reinterpret_cast<std::byte*>(to);
  task.from = reinterpret_cast<const std::byte*>(from);
  task.bytes = bytes;
  return world.enqueue(*stream, std::move(task));
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  World& world = call.world();
  if (!world.find(reinterpret_cast<void*>(to), bytes)) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not (all of it) device memory");
  }
  Task task;
  task.what = "fill";
  task.unit = Unit::kCompute;
  task.to = reinterpret_cast<std::byte*>(to);
  task.bytes = bytes;
  task.fill = value;
  return world.enqueue(*stream, std::move(task));
}

// What clients use, who do not mind waiting.

CUresult cuMemcpyHtoD(CUdeviceptr to, const void* from, size_t bytes) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (!call.world().find(reinterpret_cast<void*>(to), bytes)) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not (all of it) device memory");
  }
  const HostWait wait(call.world(), __func__, call.device(), 0, bytes);
  std::memcpy(call.world().host_address(reinterpret_cast<void*>(to)), from, bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyDtoH(void* to, CUdeviceptr from, size_t bytes) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (!call.world().find(reinterpret_cast<void*>(from), bytes)) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not (all of it) device memory");
  }
  const HostWait wait(call.world(), __func__, call.device(), 0, bytes);
  std::memcpy(to, call.world().host_address(reinterpret_cast<void*>(from)), bytes);
  return CUDA_SUCCESS;
}

}  // extern "C"
