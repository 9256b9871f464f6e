#pragma once

// device [layer 2]: where memory lives and how it is moved. The CPU is always there; CUDA is opened
// at run time through its driver.

#include <cstddef>
#include <string>

#include "base/status.h"

namespace servolley {

enum class DeviceKind : std::uint8_t { kCpu, kCuda };

struct DeviceId {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
  friend bool operator==(const DeviceId&, const DeviceId&) = default;
};

// "cpu", "cuda:0".
std::string to_string(DeviceId id);
// Reads "cpu", "cuda" (= cuda:0) or "cuda:N". INVALID_ARGUMENT for anything else.
Result<DeviceId> parse_device(std::string_view text);

struct Memory {
  std::byte* data = nullptr;  // null: there is none
  bool pinned = false;        // host memory that a GPU copies by itself (DMA)
};

// Raw memory of one device. Thread-safe. Every block is aligned to at least 64 bytes.
class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceId id() const = 0;
  // Null memory when the device has no room.
  virtual Memory allocate(std::size_t bytes) = 0;
  // What allocate() returned for `bytes`.
  virtual void free(Memory memory, std::size_t bytes) = 0;
};

// Ordinary host memory, the same for the whole process.
Device& cpu_device();

}  // namespace servolley
