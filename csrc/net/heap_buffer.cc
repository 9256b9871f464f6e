#include "net/heap_buffer.h"

#include <atomic>
#include <new>

namespace servolley::net {

Buffer heap_buffer(std::size_t bytes) {
  struct HeapBlock : Block {
    std::byte* bytes() { return reinterpret_cast<std::byte*>(this + 1); }
  };
  void* memory = ::operator new(sizeof(HeapBlock) + bytes, std::nothrow);
  if (!memory) return {};
  auto* block = new (memory) HeapBlock;
  block->data = block->bytes();
  block->capacity = bytes;
  block->leases.store(1, std::memory_order_relaxed);
  block->release = [](Block* dead) noexcept {
    auto* heap = static_cast<HeapBlock*>(dead);
    heap->~HeapBlock();
    ::operator delete(static_cast<void*>(heap));
  };
  return Buffer::adopt(block);
}

}  // namespace servolley::net
