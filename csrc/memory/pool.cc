#include "memory/pool.h"

#include <algorithm>
#include <bit>

namespace servolley {
namespace {

constexpr std::size_t kSmallest = 64;
constexpr std::size_t kHeadersPerSlab = 64;

}  // namespace

// Class 0 is 64 bytes; behind it come four classes per power of two (from 256 bytes on exactly 5/4,
// 6/4, 7/4 and 8/4 of it; below, rounding to 64 bytes makes some of them equal).
std::size_t Pool::class_bytes(std::size_t size_class) {
  if (size_class == 0) return kSmallest;
  const std::size_t base = kSmallest << ((size_class - 1) / 4);
  const std::size_t quarter = (size_class - 1) % 4 + 1;
  return (base + base / 4 * quarter + 63) & ~std::size_t{63};
}

std::size_t Pool::class_of(std::size_t bytes) {
  if (bytes <= kSmallest) return 0;
  // The largest power of two below `bytes`, then the quarter that covers it.
  const std::size_t base = std::bit_floor(bytes - 1);
  const std::size_t quarter = (bytes - base + base / 4 - 1) / (base / 4);
  return static_cast<std::size_t>(std::countr_zero(base / kSmallest)) * 4 + quarter;
}

Pool::Pool(Device& device, Options options) : device_(device), options_(options) {}

Pool::~Pool() { trim(); }

bool Pool::reserve(std::size_t bytes) {
  std::size_t now = total_bytes_.load(std::memory_order_relaxed);
  do {
    if (bytes > options_.ceiling_bytes || now > options_.ceiling_bytes - bytes) return false;
  } while (!total_bytes_.compare_exchange_weak(now, now + bytes, std::memory_order_relaxed));
  return true;
}

Result<Buffer> Pool::allocate(std::size_t bytes) {
  const std::size_t size_class = class_of(bytes);
  // Beyond the last class lies more than any machine has, whatever the ceiling says.
  if (bytes > options_.ceiling_bytes || size_class >= kClasses) {
    return too_large("tensor memory: a request for " + std::to_string(bytes) +
                     " bytes is above the pool's limit");
  }
  const std::size_t block_bytes = class_bytes(size_class);
  Block* block = nullptr;
  {
    SizeClass& slot = classes_[size_class];
    const std::lock_guard lock(slot.mutex);
    if ((block = slot.free)) slot.free = block->next;
  }
  if (block) {
    kept(*block).fetch_sub(block_bytes, std::memory_order_relaxed);
  } else {
    bool reserved = reserve(block_bytes);
    // What other size classes keep may make room; pinned memory last, for it takes long to free.
    if (!reserved) {
      trim_ordinary();
      reserved = reserve(block_bytes);
    }
    if (!reserved) {
      trim();
      reserved = reserve(block_bytes);
    }
    // Before the device is asked: a block of before renew() must not pass for one of after it.
    const std::uint32_t epoch = epoch_.load(std::memory_order_acquire);
    Memory memory = reserved ? device_.allocate(block_bytes) : Memory{};
    if (reserved && !memory.data) {  // the device has others to serve, and less than the ceiling
      trim();
      memory = device_.allocate(block_bytes);
    }
    if (!memory.data) {
      if (reserved) total_bytes_.fetch_sub(block_bytes, std::memory_order_relaxed);
      return Status(Code::kResourceExhausted,
                    "tensor memory: out of pool memory on " + to_string(device_.id()));
    }
    allocations_.fetch_add(1, std::memory_order_relaxed);
    if (memory.pinned) pinned_bytes_.fetch_add(block_bytes, std::memory_order_relaxed);
    block = new_header();
    block->data = memory.data;
    block->pinned = memory.pinned;
    block->epoch = epoch;
    block->capacity = block_bytes;
    block->size_class = static_cast<std::uint16_t>(size_class);
    block->owner = this;
    block->release = &Pool::give_back;
  }
  block->next = nullptr;
  block->leases.store(1, std::memory_order_relaxed);
  const std::size_t used =
      in_use_bytes_.fetch_add(block_bytes, std::memory_order_relaxed) + block_bytes;
  std::size_t peak = high_water_bytes_.load(std::memory_order_relaxed);
  while (used > peak &&
         !high_water_bytes_.compare_exchange_weak(peak, used, std::memory_order_relaxed)) {
  }
  return Buffer::adopt(block);
}

Result<Buffer> Pool::allocate_announced(std::size_t bytes) {
  const std::size_t quarter = options_.ceiling_bytes / 4;
  const std::size_t used = in_use_bytes_.load(std::memory_order_relaxed);
  const std::size_t most = options_.ceiling_bytes - quarter;
  if (used > quarter && (used > most || bytes > most - used)) {
    return Status(Code::kResourceExhausted, "tensor memory: too many request bodies are under way");
  }
  return allocate(bytes);
}

void Pool::give_back(Block* block) noexcept {
  Pool& pool = *static_cast<Pool*>(block->owner);
  const std::size_t bytes = block->capacity;
  pool.in_use_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  std::atomic<std::size_t>& kept = pool.kept(*block);
  const std::size_t cached = kept.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  const bool too_much = !block->pinned && (bytes > pool.options_.keep_block_bytes ||
                                           cached > pool.options_.keep_total_bytes);
  if (too_much || block->epoch != pool.epoch_.load(std::memory_order_relaxed)) {
    kept.fetch_sub(bytes, std::memory_order_relaxed);
    pool.free_block(block);
    return;
  }
  SizeClass& slot = pool.classes_[block->size_class];
  const std::lock_guard lock(slot.mutex);
  block->next = slot.free;
  slot.free = block;
}

void Pool::free_block(Block* block) noexcept {
  const std::size_t bytes = block->capacity;
  device_.free({block->data, block->pinned}, bytes);
  if (block->pinned) pinned_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  total_bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  retire_header(block);
}

template <class Goes>
void Pool::trim_if(Goes goes) {
  for (SizeClass& slot : classes_) {
    Block* list = nullptr;
    {
      const std::lock_guard lock(slot.mutex);
      for (Block** at = &slot.free; *at;) {
        Block* const block = *at;
        if (goes(*block)) {
          *at = block->next;
          block->next = std::exchange(list, block);
        } else {
          at = &block->next;
        }
      }
    }
    while (list) {
      Block* block = std::exchange(list, list->next);
      kept(*block).fetch_sub(block->capacity, std::memory_order_relaxed);
      free_block(block);
    }
  }
}

void Pool::trim() {
  trim_if([](const Block&) { return true; });
}

void Pool::trim_ordinary() {
  trim_if([](const Block& block) { return !block.pinned; });
}

void Pool::renew() {
  epoch_.fetch_add(1, std::memory_order_release);
  trim();
}

Block* Pool::new_header() {
  const std::lock_guard lock(headers_mutex_);
  if (!free_headers_) {
    header_slabs_.push_back(std::make_unique<Block[]>(kHeadersPerSlab));
    for (std::size_t i = 0; i < kHeadersPerSlab; ++i) {
      Block* block = &header_slabs_.back()[i];
      block->next = std::exchange(free_headers_, block);
    }
  }
  return std::exchange(free_headers_, free_headers_->next);
}

void Pool::retire_header(Block* block) noexcept {
  block->data = nullptr;
  const std::lock_guard lock(headers_mutex_);
  block->next = std::exchange(free_headers_, block);
}

PoolStats Pool::stats() const {
  const std::size_t kept_pinned = kept_pinned_bytes_.load(std::memory_order_relaxed);
  return {.in_use_bytes = in_use_bytes_.load(std::memory_order_relaxed),
          .high_water_bytes = high_water_bytes_.load(std::memory_order_relaxed),
          .cached_bytes = kept_bytes_.load(std::memory_order_relaxed) + kept_pinned,
          .pinned_bytes = pinned_bytes_.load(std::memory_order_relaxed),
          .cached_pinned_bytes = kept_pinned,
          .allocations = allocations_.load(std::memory_order_relaxed)};
}

}  // namespace servolley
