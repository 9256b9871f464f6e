#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "base/status.h"

struct CUstream_st;
struct CUevent_st;

namespace servolley::cuda {

class Gpu;

// How a thread waits for an event: asleep, or on a processor of its own (a few microseconds
// faster).
enum class EventWait : std::uint8_t { kSleep, kSpin };

// A point in a stream's work, reached or not. An event that was never recorded counts as reached.
// Keeps its Gpu. Not for several recording threads at once.
class Event {
 public:
  Event() = default;
  Event(Event&& other) noexcept
      : gpu_(std::move(other.gpu_)), event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { reset(); }

  CUevent_st* native() const { return event_; }
  // Whether it is reached. Never waits.
  Result<bool> done() const;
  // Until it is reached.
  Status wait() const;

 private:
  friend class Gpu;
  Event(std::shared_ptr<const Gpu> gpu, CUevent_st* event) : gpu_(std::move(gpu)), event_(event) {}
  void reset() noexcept;

  std::shared_ptr<const Gpu> gpu_;
  CUevent_st* event_ = nullptr;
};

// A queue of work for the device. Every call returns when the work is queued; only synchronize()
// waits. Keeps its Gpu; destroying it lets queued work finish. Device memory is written as
// std::byte*, and the host must not look into it. Host memory that is not pinned makes a copy wait
// (see PinnedMemory).
class Stream {
 public:
  using HostFunction = void (*)(void* argument);

  Stream() = default;
  Stream(Stream&& other) noexcept
      : gpu_(std::move(other.gpu_)), stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { reset(); }

  CUstream_st* native() const { return stream_; }
  const std::shared_ptr<const Gpu>& gpu() const { return gpu_; }

  Status copy_to_device(std::byte* to, const std::byte* from, std::size_t bytes);
  Status copy_to_host(std::byte* to, const std::byte* from, std::size_t bytes);
  Status copy_on_device(std::byte* to, const std::byte* from, std::size_t bytes);
  // Sets device memory to one value.
  Status fill(std::byte* to, std::byte value, std::size_t bytes);
  // The event is reached when everything queued so far is done.
  Status record(Event& event);
  // What is queued from now on begins when the event, as it was recorded last, is reached.
  Status wait(const Event& event);
  // Calls the function on a thread of the driver's when everything queued so far is done; what
  // follows waits for it. It must not call CUDA. Skipped if the device breaks before.
  Status launch_host(HostFunction function, void* argument);
  // Whether everything queued is done. Never waits.
  Result<bool> idle() const;
  Status synchronize();
  // Ends a capture that another library has begun on this thread and left open, and throws away
  // what it has. OK if there is none.
  Status end_capture();

 private:
  friend class Gpu;
  Stream(std::shared_ptr<const Gpu> gpu, CUstream_st* stream)
      : gpu_(std::move(gpu)), stream_(stream) {}
  void reset() noexcept;

  std::shared_ptr<const Gpu> gpu_;
  CUstream_st* stream_ = nullptr;
};

}  // namespace servolley::cuda
