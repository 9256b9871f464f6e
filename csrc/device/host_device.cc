#include "device/host_device.h"

#include <new>
#include <utility>

namespace servolley {
namespace {

constexpr std::align_val_t kAlignment{64};

}  // namespace

Memory HostDevice::allocate(std::size_t bytes) {
  if (bytes >= kPinnedFromBytes) {
    if (PinnedMemory* source = pinned_.load(std::memory_order_acquire)) {
      if (std::byte* block = source->allocate_pinned(bytes)) return {block, true};
    }
  }
  return {static_cast<std::byte*>(::operator new(bytes, kAlignment, std::nothrow)), false};
}

void HostDevice::free(Memory memory, std::size_t bytes) {
  if (memory.pinned) {
    pinned_.load(std::memory_order_acquire)->free_pinned(memory.data);
  } else {
    ::operator delete(memory.data, bytes, kAlignment);
  }
}

bool HostDevice::use_pinned(std::shared_ptr<PinnedMemory> source) {
  const std::lock_guard lock(mutex_);
  if (source_) return false;
  source_ = std::move(source);
  pinned_.store(source_.get(), std::memory_order_release);
  return true;
}

Device& cpu_device() {
  static HostDevice device;
  return device;
}

}  // namespace servolley
