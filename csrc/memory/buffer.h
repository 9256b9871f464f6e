#pragma once

// memory [layer 3]: the pool over a device, and Buffer, the one owner of bytes. Everything else in
// the server that points at bytes is a view.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace servolley {

class Pool;

// The bookkeeping of one piece of memory; lives apart from it, because device memory cannot hold
// it.
struct Block {
  std::byte* data = nullptr;
  std::size_t capacity = 0;
  std::atomic<std::uint32_t> leases{0};
  std::uint16_t size_class = 0;
  bool pinned = false;      // host memory that a GPU copies by itself
  std::uint32_t epoch = 0;  // the pool's, when it took the memory from its device
  // Called by whichever thread drops the last lease.
  void (*release)(Block* block) noexcept = nullptr;
  void* owner = nullptr;  // what `release` needs: the pool, or a foreign handle
  Block* next = nullptr;  // free list
};

// A counted lease on a block of memory. Copying is explicit (share) because it costs an atomic add.
// The last lease to die returns the memory, from any thread.
class Buffer {
 public:
  Buffer() = default;
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      reset();
      block_ = std::exchange(other.block_, nullptr);
    }
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { reset(); }

  // Takes over a block whose `leases` is already counted for this lease.
  static Buffer adopt(Block* block) {
    Buffer buffer;
    buffer.block_ = block;
    return buffer;
  }

  Buffer share() const {
    if (block_) block_->leases.fetch_add(1, std::memory_order_relaxed);
    return adopt(block_);
  }

  void reset() {
    if (Block* block = std::exchange(block_, nullptr)) {
      if (block->leases.fetch_sub(1, std::memory_order_acq_rel) == 1) block->release(block);
    }
  }

  // The memory is never given back: something may still write to it that nobody can wait for.
  void leak() { block_ = nullptr; }

  explicit operator bool() const { return block_ != nullptr; }
  std::byte* data() const { return block_ ? block_->data : nullptr; }
  // At least what was asked for; the size class rounds up.
  std::size_t capacity() const { return block_ ? block_->capacity : 0; }
  std::span<std::byte> span() const { return {data(), capacity()}; }
  // Host memory that a GPU copies by itself (DMA), while the host goes on.
  bool pinned() const { return block_ && block_->pinned; }
  // True if this is the only lease, so that nobody else can see a write.
  bool unique() const { return block_ && block_->leases.load(std::memory_order_acquire) == 1; }

 private:
  Block* block_ = nullptr;
};

}  // namespace servolley
