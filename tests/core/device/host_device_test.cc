#include "device/host_device.h"

#include <doctest/doctest.h>

#include <map>
#include <vector>

using namespace servolley;

namespace {

class FakePinned final : public PinnedMemory {
 public:
  ~FakePinned() override { CHECK(blocks_.empty()); }
  std::byte* allocate_pinned(std::size_t bytes) override {
    if (empty) return nullptr;
    auto block = std::make_unique<std::vector<std::byte>>(bytes + 64);
    std::byte* const at = block->data();
    blocks_.emplace(at, std::move(block));
    return at;
  }
  bool pin(std::byte*, std::size_t) override { return false; }
  void unpin(std::byte*) override {}
  void free_pinned(std::byte* block) override { CHECK(blocks_.erase(block) == 1); }
  bool empty = false;

 private:
  std::map<std::byte*, std::unique_ptr<std::vector<std::byte>>> blocks_;
};

constexpr std::size_t kLarge = HostDevice::kPinnedFromBytes;

}  // namespace

TEST_CASE("host memory is pinned from a size on, once a device has asked for it") {
  HostDevice host;
  const Memory before = host.allocate(kLarge);
  CHECK_FALSE(before.pinned);
  auto source = std::make_shared<FakePinned>();
  CHECK(host.use_pinned(source));
  const Memory large = host.allocate(kLarge);
  const Memory small = host.allocate(kLarge - 1);
  CHECK(large.pinned);
  CHECK_FALSE(small.pinned);
  // Each goes back the way it came.
  host.free(before, kLarge);
  host.free(large, kLarge);
  host.free(small, kLarge - 1);
  // Where there is none to pin, ordinary memory does.
  source->empty = true;
  const Memory instead = host.allocate(kLarge);
  REQUIRE(instead.data);
  CHECK_FALSE(instead.pinned);
  host.free(instead, kLarge);
}

TEST_CASE("the first source of pinned memory stays, and lives as long as the device needs it") {
  auto first = std::make_shared<FakePinned>();
  const std::weak_ptr<FakePinned> watched = first;
  {
    HostDevice host;
    CHECK(host.use_pinned(std::move(first)));
    CHECK_FALSE(host.use_pinned(std::make_shared<FakePinned>()));
    const Memory memory = host.allocate(kLarge);
    CHECK(memory.pinned);
    host.free(memory, kLarge);
    CHECK_FALSE(watched.expired());
  }
  CHECK(watched.expired());
}
