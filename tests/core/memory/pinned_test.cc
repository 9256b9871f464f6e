#include <doctest/doctest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include "device/host_device.h"
#include "memory/pool.h"

using namespace servolley;

namespace {

constexpr std::size_t kLarge = std::size_t{1} << 20;

class CountingPinned final : public PinnedMemory {
 public:
  std::byte* allocate_pinned(std::size_t bytes) override {
    ++held;
    return cpu_device().allocate(bytes).data;
  }
  bool pin(std::byte*, std::size_t) override { return false; }
  void unpin(std::byte*) override {}
  void free_pinned(std::byte* block) override {
    --held;
    ::operator delete (block, std::align_val_t{64});
  }
  std::atomic<int> held{0};
};

Buffer take(Pool& pool, std::size_t bytes) {
  auto buffer = pool.allocate(bytes);
  REQUIRE(buffer);
  return std::move(*buffer);
}

}  // namespace

TEST_CASE("from renew() on the pool hands out pinned blocks, and none of before") {
  HostDevice host;
  Pool pool(host, {});
  const auto source = std::make_shared<CountingPinned>();
  Buffer before = take(pool, kLarge);
  { const Buffer kept = take(pool, kLarge); }
  CHECK_FALSE(before.pinned());
  CHECK_FALSE(Buffer().pinned());
  CHECK(pool.stats().pinned_bytes == 0);
  REQUIRE(host.use_pinned(source));
  pool.renew();
  CHECK(pool.stats().cached_bytes == 0);
  {
    const Buffer large = take(pool, kLarge);
    CHECK(large.pinned());
    CHECK(large.share().pinned());
    CHECK_FALSE(take(pool, 100).pinned());
    CHECK(pool.stats().pinned_bytes == kLarge);
  }
  CHECK(pool.stats().cached_pinned_bytes == kLarge);
  // What was in use at the switch is not used again.
  before.reset();
  CHECK(pool.stats().cached_pinned_bytes == kLarge);
  CHECK(take(pool, kLarge).pinned());
  CHECK(source->held == 1);
  pool.trim();
  CHECK(source->held == 0);
  CHECK(pool.stats().pinned_bytes == 0);
  CHECK(pool.stats().cached_bytes == 0);
}

TEST_CASE("pinned memory is kept beyond what is kept of ordinary memory, up to the ceiling") {
  HostDevice host;
  const auto source = std::make_shared<CountingPinned>();
  REQUIRE(host.use_pinned(source));
  Pool pool(host, {.ceiling_bytes = 8 * kLarge,
                   .keep_block_bytes = kLarge / 2,
                   .keep_total_bytes = std::size_t{4} << 10});
  {
    std::vector<Buffer> all;
    for (int i = 0; i < 7; ++i) all.push_back(take(pool, kLarge));
    for (int i = 0; i < 8; ++i) all.push_back(take(pool, 1024));
  }
  CHECK(source->held == 7);
  CHECK(pool.stats().cached_pinned_bytes == 7 * kLarge);
  CHECK(pool.stats().cached_bytes == 7 * kLarge + 4096);
  // A pause gives back what is cheap to have again.
  pool.trim_ordinary();
  CHECK(pool.stats().cached_bytes == 7 * kLarge);
  CHECK(source->held == 7);
  // Another size needs the room.
  const Buffer other = take(pool, 4 * kLarge);
  CHECK(other.pinned());
  CHECK(pool.stats().cached_pinned_bytes == 0);
}

TEST_CASE("blocks that threads hold across the switch come back the way they came") {
  HostDevice host;
  Pool pool(host, {});
  const auto source = std::make_shared<CountingPinned>();
  std::atomic<bool> pinned_seen{false};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < 20'000 && !(pinned_seen && i > 2000); ++i) {
          const auto buffer = pool.allocate(HostDevice::kPinnedFromBytes);
          if (buffer && (*buffer).share().pinned()) pinned_seen = true;
        }
      });
    }
    REQUIRE(host.use_pinned(source));
    pool.renew();
  }
  CHECK(take(pool, kLarge).pinned());
  pool.trim();
  CHECK(source->held == 0);
  CHECK(pool.stats().cached_bytes == 0);
}

TEST_CASE("at the ceiling pinned blocks go last") {
  HostDevice host;
  REQUIRE(host.use_pinned(std::make_shared<CountingPinned>()));
  Pool pool(host, {.ceiling_bytes = 2 * kLarge});
  take(pool, kLarge).reset();
  {
    std::vector<Buffer> ordinary;
    for (int i = 0; i < 5; ++i) ordinary.push_back(take(pool, 32 << 10));
  }
  CHECK(pool.stats().cached_bytes == kLarge + 5 * (32 << 10));
  // The ordinary ones make the room.
  const Buffer other = take(pool, kLarge / 8 * 7);
  CHECK(pool.stats().cached_pinned_bytes == kLarge);
  CHECK(pool.stats().cached_bytes == kLarge);
  // They would not be enough.
  const Buffer more = take(pool, kLarge / 2);
  CHECK(pool.stats().cached_bytes == 0);
}
