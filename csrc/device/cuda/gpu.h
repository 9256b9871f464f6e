#pragma once

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>

#include "base/status.h"
#include "device/cuda/driver.h"
#include "device/cuda/stream.h"
#include "device/device.h"
#include "device/host_device.h"

struct CUctx_st;

namespace servolley::cuda {

class IpcMemory;
inline constexpr std::size_t kIpcHandleBytes = 64;

// One GPU. Every call makes the primary context current for its thread first, which costs a look at
// a thread-local variable of the driver where it is current already. Thread-safe.
//
// An error that leaves the context unusable (an illegal address, a failed launch, memory that lost
// bits, ...) marks the device broken for good: the driver answers every later call with the same
// error until the process ends, and so do we, without asking it.
class Gpu final : public Device, public PinnedMemory, public std::enable_shared_from_this<Gpu> {
 public:
  struct MemoryInfo {
    std::size_t free_bytes = 0;
    std::size_t total_bytes = 0;
  };

  ~Gpu() override;
  Gpu(const Gpu&) = delete;
  Gpu& operator=(const Gpu&) = delete;

  DeviceId id() const override { return {DeviceKind::kCuda, info_.index}; }
  const DeviceInfo& info() const { return info_; }
  // Device memory. The host must not look into it. Freeing waits for what runs on the device, so
  // keep what is needed again (a Pool does).
  Memory allocate(std::size_t bytes) override;
  void free(Memory memory, std::size_t bytes) override;
  // Host memory, pinned for every device.
  std::byte* allocate_pinned(std::size_t bytes) override;
  void free_pinned(std::byte* block) override;
  bool pin(std::byte* pages, std::size_t bytes) override;
  void unpin(std::byte* pages) override;
  Result<MemoryInfo> memory() const;

  // Work of one stream is in order; streams do not wait for each other, nor for the default stream.
  Result<Stream> create_stream();
  Result<Event> create_event(EventWait wait = EventWait::kSleep);

  // Memory of another process, from the handle that it exported: at least `bytes` long, mapped
  // until the last holder lets go. INVALID_ARGUMENT for a handle that is none (any more), for one
  // of our own process, and for an allocation that is smaller. None of that harms the context.
  Result<std::shared_ptr<const IpcMemory>> open_ipc(std::span<const std::byte> handle,
                                                    std::size_t bytes);

  bool broken() const { return broken_.load(std::memory_order_acquire); }
  // OK, or what broke it.
  Status health() const;
  // Asks the driver whether the context still works; for whoever saw another library fail on it.
  Status probe();
  // Counts the device as broken although its context may work: something is under way on it that
  // nobody can wait for, or end.
  void give_up(const Status& why);
  // Whether it was given up: what was queued before may still read and write memory. A context that
  // broke by itself carries nothing out any more.
  bool given_up() const { return given_up_.load(std::memory_order_acquire); }

  // The result of a driver call as a Status; `what` says what was tried. RESOURCE_EXHAUSTED when
  // the device is out of memory, INTERNAL otherwise. Breaks the device if the result is of that
  // kind.
  Status take(int result, std::string_view what) const;
  // OK when the context is current for this thread; an error if it is broken. From then on captures
  // of other threads forbid this one nothing.
  Status make_current() const;
  CUctx_st* native_context() const { return context_; }
  const Driver& driver() const { return *driver_; }

 private:
  friend class Driver;
  friend class IpcMemory;
  Gpu(std::shared_ptr<const Driver> driver, DeviceInfo info, int device, CUctx_st* context);

  const std::shared_ptr<const Driver> driver_;
  const DeviceInfo info_;
  const int device_;
  CUctx_st* const context_;
  void mark_broken(const std::string& why) const;

  mutable std::atomic<bool> broken_{false};
  std::atomic<bool> given_up_{false};
  mutable std::mutex mutex_;
  mutable Status breakage_;  // guarded
};

}  // namespace servolley::cuda
