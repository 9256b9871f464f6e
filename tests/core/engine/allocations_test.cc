#include "allocations.h"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <new>
#include <thread>

// Replaces the global allocation functions of this test program: each counts and forwards to the C
// library, unless memory is to be short.

namespace {

std::atomic<std::uint64_t> count{0};
std::atomic<std::uint64_t> refused{0};
std::atomic<unsigned> one_in{0};  // 0: none fails
thread_local bool spared = false;

void* take(std::size_t bytes) {
  std::uint64_t dice = count.fetch_add(1, std::memory_order_relaxed) + 1;
  const unsigned n = one_in.load(std::memory_order_relaxed);
  // Scattered well, so that no rhythm of whoever asks meets the same fate each time.
  dice = (dice ^ dice >> 30) * 0xBF58476D1CE4E5B9U;
  dice = (dice ^ dice >> 27) * 0x94D049BB133111EBU;
  if (n > 0 && !spared && (dice >> 32) % n == 0) {
    refused.fetch_add(1, std::memory_order_relaxed);
    return nullptr;
  }
  return std::malloc(bytes ? bytes : 1);
}
void* or_throw(void* block) {
  if (!block) throw std::bad_alloc();
  return block;
}

}  // namespace

void* operator new(std::size_t bytes) { return or_throw(take(bytes)); }
void* operator new[](std::size_t bytes) { return or_throw(take(bytes)); }
// All of a kind must come from one allocator: sanitizers have their own.
void* operator new(std::size_t bytes, const std::nothrow_t&) noexcept { return take(bytes); }
void operator delete(void* p) noexcept { std::free(p); }
void operator delete[](void* p) noexcept { std::free(p); }
void operator delete(void* p, std::size_t) noexcept { std::free(p); }
void operator delete[](void* p, std::size_t) noexcept { std::free(p); }

namespace servolley::testing {

std::uint64_t allocations() { return count.load(); }
std::uint64_t refused_allocations() { return refused.load(); }

Shortage::Shortage(unsigned n) {
  spared = true;
  one_in = n;
}
Shortage::~Shortage() {
  one_in = 0;
  spared = false;
}

TEST_CASE("a shortage is for other threads, and ends") {
  const auto try_it = [] {
    std::atomic<bool> found{false};
    std::jthread([&] {
      auto* const block = new (std::nothrow) int(1);
      found = block != nullptr;
      delete block;
    }).join();
    return found.load();
  };
  {
    const Shortage shortage(1);
    const std::uint64_t before = refused_allocations();
    CHECK_FALSE(try_it());
    CHECK(refused_allocations() > before);
    CHECK(std::string(100, 'x').size() == 100);
  }
  CHECK(try_it());
}

}  // namespace servolley::testing
