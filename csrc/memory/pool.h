#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

#include "base/status.h"
#include "device/device.h"
#include "memory/buffer.h"

namespace servolley {

struct PoolStats {
  std::size_t in_use_bytes = 0;      // leased now (size classes, not what was asked for)
  std::size_t high_water_bytes = 0;  // largest in_use_bytes so far
  std::size_t cached_bytes = 0;      // free, kept for reuse
  std::size_t pinned_bytes = 0;      // of both, what is pinned host memory
  std::size_t cached_pinned_bytes = 0;
  std::uint64_t allocations = 0;  // trips to the device
};

// Memory of one device in size classes: four per power of two from 64 bytes up, so that rounding
// wastes at most a quarter. A returned block is kept for reuse; blocks in use and kept never exceed
// `ceiling_bytes` together. Thread-safe; the pool must outlive its buffers.
class Pool {
 public:
  struct Options {
    std::size_t ceiling_bytes = std::size_t{4} << 30;
    // Blocks larger than this are given back at once instead of being kept. Pinned memory is kept
    // whatever its size, until a trim: freeing it waits for the GPU.
    std::size_t keep_block_bytes = std::size_t{64} << 20;
    std::size_t keep_total_bytes = std::size_t{256} << 20;
  };

  Pool(Device& device, Options options);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  // A 64-byte aligned buffer of at least `bytes`; its content is undefined. TOO_LARGE if not even
  // an empty pool could give that, RESOURCE_EXHAUSTED while too much is in use or the device is out
  // of memory.
  Result<Buffer> allocate(std::size_t bytes);
  // The same for what a client only announces. While much is in use already, a quarter of the
  // ceiling stays free for everybody else: promised bodies alone cannot stop the others.
  Result<Buffer> allocate_announced(std::size_t bytes);
  // Gives everything that is kept back to the device.
  void trim();
  // The same without pinned memory, which takes long to get again.
  void trim_ordinary();
  // The device hands out another kind of memory from now on: what is kept goes back to it, and so
  // does what is in use, once it returns.
  void renew();
  PoolStats stats() const;
  Device& device() const { return device_; }

 private:
  static constexpr std::size_t kClasses = 4 * 40;
  struct SizeClass {
    mutable std::mutex mutex;
    Block* free = nullptr;
  };

  static std::size_t class_of(std::size_t bytes);
  static std::size_t class_bytes(std::size_t size_class);
  static void give_back(Block* block) noexcept;
  void free_block(Block* block) noexcept;
  template <class Goes>
  void trim_if(Goes goes);
  std::atomic<std::size_t>& kept(const Block& block) {
    return block.pinned ? kept_pinned_bytes_ : kept_bytes_;
  }
  bool reserve(std::size_t bytes);
  Block* new_header();
  void retire_header(Block* block) noexcept;

  Device& device_;
  const Options options_;
  std::array<SizeClass, kClasses> classes_;
  std::atomic<std::size_t> total_bytes_{0};        // in use and cached
  std::atomic<std::size_t> kept_bytes_{0};         // cached and not pinned
  std::atomic<std::size_t> kept_pinned_bytes_{0};  // cached and pinned
  std::atomic<std::size_t> pinned_bytes_{0};       // in use and cached
  std::atomic<std::size_t> in_use_bytes_{0};
  std::atomic<std::size_t> high_water_bytes_{0};
  std::atomic<std::uint64_t> allocations_{0};
  std::atomic<std::uint32_t> epoch_{0};
  std::mutex headers_mutex_;
  Block* free_headers_ = nullptr;
  std::vector<std::unique_ptr<Block[]>> header_slabs_;
};

}  // namespace servolley
