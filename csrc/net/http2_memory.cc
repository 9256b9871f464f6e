#include "net/http2_memory.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>
#include <utility>

namespace servolley::net {

FrameMemory::FrameMemory() {
  interface_.mem_user_data = this;
  interface_.malloc = [](std::size_t bytes, void* user) {
    return static_cast<FrameMemory*>(user)->allocate(bytes);
  };
  interface_.free = [](void* memory, void* user) {
    static_cast<FrameMemory*>(user)->release(memory);
  };
  interface_.calloc = [](std::size_t count, std::size_t bytes, void* user) -> void* {
    if (bytes && count > std::numeric_limits<std::size_t>::max() / bytes) return nullptr;
    void* const memory = static_cast<FrameMemory*>(user)->allocate(count * bytes);
    return memory ? std::memset(memory, 0, count * bytes) : nullptr;
  };
  interface_.realloc = [](void* memory, std::size_t bytes, void* user) {
    return static_cast<FrameMemory*>(user)->resize(memory, bytes);
  };
}

FrameMemory::~FrameMemory() {
  for (Block* list : kept_) {
    while (list) ::operator delete(static_cast<void*>(std::exchange(list, list->next)));
  }
}

void* FrameMemory::allocate(std::size_t bytes) {
  const std::size_t size_class = std::min((std::max<std::size_t>(bytes, 1) - 1) / kStep, kLarge);
  Block* block = nullptr;
  if (size_class < kClasses && kept_[size_class]) {
    block = std::exchange(kept_[size_class], kept_[size_class]->next);
    kept_bytes_ -= (size_class + 1) * kStep;
  } else {
    if (bytes > std::numeric_limits<std::size_t>::max() - sizeof(Block)) return nullptr;
    const std::size_t room = size_class < kClasses ? (size_class + 1) * kStep : bytes;
    void* const memory = ::operator new(sizeof(Block) + room, std::nothrow);
    if (!memory) return nullptr;
    block = new (memory) Block;
    block->size_class = size_class;
  }
  block->bytes = bytes;
  return block + 1;
}

void* FrameMemory::resize(void* memory, std::size_t bytes) {
  if (!memory) return allocate(bytes);
  void* const moved = allocate(bytes);
  if (!moved) return nullptr;
  std::memcpy(moved, memory, std::min(bytes, (static_cast<Block*>(memory) - 1)->bytes));
  release(memory);
  return moved;
}

void FrameMemory::release(void* memory) {
  if (!memory) return;
  Block* const block = static_cast<Block*>(memory) - 1;
  const std::size_t room = (block->size_class + 1) * kStep;
  if (block->size_class == kLarge || kept_bytes_ + room > kKeepBytes) {
    return ::operator delete(static_cast<void*>(block));
  }
  kept_bytes_ += room;
  block->next = std::exchange(kept_[block->size_class], block);
}

}  // namespace servolley::net
