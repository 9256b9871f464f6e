#include "device/device.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstring>
#include <limits>

using namespace servolley;

TEST_CASE("names of devices") {
  CHECK(to_string(DeviceId{}) == "cpu");
  CHECK(to_string(DeviceId{DeviceKind::kCuda, 3}) == "cuda:3");
  const struct {
    const char* text;
    DeviceId id;
  } good[] = {{"cpu", {}},
              {"cuda", {DeviceKind::kCuda, 0}},
              {"cuda:0", {DeviceKind::kCuda, 0}},
              {"cuda:12", {DeviceKind::kCuda, 12}}};
  for (const auto& c : good) {
    const auto id = parse_device(c.text);
    REQUIRE(id);
    CHECK(*id == c.id);
  }
  for (const char* bad : {"", "CPU", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:+1", "cuda: 1",
                          "cuda:1 ", "cuda:x", "cuda:1.5", "cuda:99999999999", "cuda:0x1"}) {
    CAPTURE(std::string(bad));
    const auto id = parse_device(bad);
    REQUIRE_FALSE(id);
    CHECK(id.error().code() == Code::kInvalidArgument);
  }
}

TEST_CASE("host memory is aligned to 64 bytes, writable, and refused without an exception") {
  Device& device = cpu_device();
  CHECK(device.id() == DeviceId{});
  for (const std::size_t bytes : {1UL, 63UL, 64UL, 65UL, 4096UL, 1'000'003UL}) {
    const Memory memory = device.allocate(bytes);
    REQUIRE(memory.data);
    CHECK_FALSE(memory.pinned);
    CHECK(reinterpret_cast<std::uintptr_t>(memory.data) % 64 == 0);
    std::memset(memory.data, 0xab, bytes);
    device.free(memory, bytes);
  }
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // The sanitizers end the process instead of answering.
  CHECK(device.allocate(std::numeric_limits<std::size_t>::max() / 4).data == nullptr);
#endif
}
