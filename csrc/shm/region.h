#pragma once

// shm [layer 4]: regions of shared memory that clients have registered, POSIX objects of the host
// and allocations of a GPU, and the table of them. Loop thread only, except for reading and writing
// a GPU's memory, for pinning, and for letting go.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "device/device.h"
#include "device/host_device.h"

namespace servolley::shm {

// What the living regions take together; those that were unregistered while in use count, too.
struct Usage {
  std::atomic<std::size_t> regions{0};
  std::atomic<std::uint64_t> bytes{0};
  std::atomic<std::uint64_t> pinned_bytes{0};  // of the host's memory: what devices copy themselves
};

// Memory that a client has registered. Open until the last user lets go.
class Region {
 public:
  virtual ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  const std::string& name() const { return name_; }
  std::uint64_t bytes() const { return bytes_; }
  // Whose memory it is.
  virtual DeviceId device() const { return {}; }
  // Its first byte for whoever works on that device; null on the host, where bytes are only copied.
  virtual std::byte* device_data() const { return nullptr; }
  // Any thread, once: lets devices copy from and to memory of the host by themselves from now on.
  // False where it cannot be.
  virtual bool pin(std::shared_ptr<PinnedMemory> /*pinning*/) const { return false; }
  // Its first byte for devices that do; null where they cannot. The host must not look into it.
  virtual std::byte* pinned_data() const { return nullptr; }

  // Whether [offset, offset + bytes) lies in the region: INVALID_ARGUMENT if not.
  Status check_range(std::uint64_t offset, std::uint64_t bytes) const;
  // Whether the range, which has been checked, is there still: INVALID_ARGUMENT if not.
  virtual Status check_there(std::uint64_t /*offset*/, std::uint64_t /*bytes*/) const { return {}; }
  // Copies out of and into the region, from and to host memory; the range has been checked.
  virtual Status read(std::uint64_t offset, std::span<std::byte> to) const = 0;
  virtual Status write(std::uint64_t offset, std::span<const std::byte> from) const = 0;

 protected:
  Region(std::string_view name, std::uint64_t bytes, std::shared_ptr<Usage> usage);

  Usage& usage() const { return *usage_; }

 private:
  const std::string name_;
  const std::uint64_t bytes_;
  const std::shared_ptr<Usage> usage_;
};

}  // namespace servolley::shm
