#pragma once

#include <atomic>
#include <memory>
#include <mutex>

#include "device/device.h"

namespace servolley {

// Host memory that the driver of a device has pinned: the device copies it by itself, while the
// host goes on. Thread-safe.
class PinnedMemory {
 public:
  virtual ~PinnedMemory() = default;
  // nullptr when there is none.
  virtual std::byte* allocate_pinned(std::size_t bytes) = 0;
  virtual void free_pinned(std::byte* block) = 0;
  // Pins whole pages that are there already, until unpin(). False where that cannot be.
  virtual bool pin(std::byte* pages, std::size_t bytes) = 0;
  virtual void unpin(std::byte* pages) = 0;
};

// Host memory that becomes pinned where that pays, once a device has asked for it. Every block is
// freed the way it was allocated. Pinning makes copies faster and nothing else, so where there is
// none left ordinary memory does.
class HostDevice final : public Device {
 public:
  // The driver pins whole pages and takes milliseconds for it now and then. Copying less than that
  // into a pinned block costs a few microseconds.
  static constexpr std::size_t kPinnedFromBytes = std::size_t{64} << 10;

  DeviceId id() const override { return {}; }
  Memory allocate(std::size_t bytes) override;
  void free(Memory memory, std::size_t bytes) override;

  // Blocks of kPinnedFromBytes and more are pinned from now on. The first source stays: what it
  // pins is pinned for every device. True if this one is the first.
  bool use_pinned(std::shared_ptr<PinnedMemory> source);

 private:
  std::mutex mutex_;
  std::shared_ptr<PinnedMemory> source_;        // guarded; set once
  std::atomic<PinnedMemory*> pinned_{nullptr};  // the same, for everybody
};

}  // namespace servolley
