#include "memory/counting_new.h"

#include <doctest/doctest.h>

#include <cstdlib>
#include <new>

// Replaces the global allocation functions of this test program: each counts and forwards to the C
// library.

namespace {
thread_local std::size_t count = 0;

void* take(std::size_t bytes) {
  ++count;
  return std::malloc(bytes ? bytes : 1);
}
void* take_aligned(std::size_t bytes, std::align_val_t alignment) {
  ++count;
  const auto unit = static_cast<std::size_t>(alignment);
  if (bytes > static_cast<std::size_t>(-1) - unit) return nullptr;
  return std::aligned_alloc(unit, (bytes + unit - 1) / unit * unit);
}
void* or_throw(void* block) {
  if (!block) throw std::bad_alloc();
  return block;
}
}  // namespace

namespace servolley::testing {
std::size_t allocations_of_this_thread() { return count; }
}  // namespace servolley::testing

void* operator new(std::size_t bytes) { return or_throw(take(bytes)); }
void* operator new[](std::size_t bytes) { return or_throw(take(bytes)); }
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void* operator new[](std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return or_throw(take_aligned(bytes, alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return or_throw(take_aligned(bytes, alignment));
}
void* operator new(std::size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return take_aligned(bytes, alignment);
}
void* operator new[](std::size_t bytes, std::align_val_t alignment,
                     const std::nothrow_t&) noexcept {
  return take_aligned(bytes, alignment);
}
void operator delete(void* block) noexcept { std::free(block); }
void operator delete[](void* block) noexcept { std::free(block); }
void operator delete(void* block, std::size_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t) noexcept { std::free(block); }
void operator delete(void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete[](void* block, const std::nothrow_t&) noexcept { std::free(block); }
void operator delete(void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::align_val_t) noexcept { std::free(block); }
void operator delete(void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }
void operator delete[](void* block, std::size_t, std::align_val_t) noexcept { std::free(block); }

TEST_CASE("the counter counts") {
  const std::size_t before = servolley::testing::allocations_of_this_thread();
  auto* volatile block = new int(3);
  CHECK(servolley::testing::allocations_of_this_thread() == before + 1);
  delete block;
}
