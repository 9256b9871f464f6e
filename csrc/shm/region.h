#pragma once

// shm [layer 4]: regions of POSIX shared memory that clients have registered, and the table of
// them. Bytes are copied in and out through the descriptor; nothing is ever mapped. A client may
// shorten its object at any time, and touching a mapping behind the object's end kills the process
// (SIGBUS), while pread() just returns fewer bytes; it may also change the bytes between a check
// and a use, so that whatever is checked has to be a copy anyway. On tmpfs a pread() is the one
// memcpy that such a copy costs. Loop thread only.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace servolley::shm {

// What the living regions take together; those that were unregistered while in use count, too.
struct Usage {
  std::size_t regions = 0;
  std::uint64_t bytes = 0;
};

// An open part of a shared memory object. Closes its descriptor when the last user lets go.
class Region {
 public:
  // Opens `key` ("/name" or "name") read-write. INVALID_ARGUMENT for a key that names no object of
  // a client's or that cannot be opened, for a part that is empty, begins inside a page or does not
  // lie in the object; RESOURCE_EXHAUSTED if the process has no descriptors left.
  static Result<std::shared_ptr<const Region>> open(std::string_view name, std::string_view key,
                                                    std::uint64_t offset, std::uint64_t bytes,
                                                    std::shared_ptr<Usage> usage);
  ~Region();
  Region(const Region&) = delete;
  Region& operator=(const Region&) = delete;

  const std::string& name() const { return name_; }
  const std::string& key() const { return key_; }
  std::uint64_t offset() const { return offset_; }  // in the object
  std::uint64_t bytes() const { return bytes_; }

  // Whether [offset, offset + bytes) lies in the region: INVALID_ARGUMENT if not.
  Status check_range(std::uint64_t offset, std::uint64_t bytes) const;
  // Copies out of and into the region; the range has been checked. INVALID_ARGUMENT if the object
  // has become too short meanwhile. Never lengthens the object on purpose.
  Status read(std::uint64_t offset, std::span<std::byte> to) const;
  Status write(std::uint64_t offset, std::span<const std::byte> from) const;

 private:
  Region(std::string_view name, std::string_view key, std::uint64_t offset, std::uint64_t bytes,
         int fd, std::shared_ptr<Usage> usage);
  Status too_short() const;

  const std::string name_;
  const std::string key_;
  const std::uint64_t offset_;
  const std::uint64_t bytes_;
  const int fd_;
  const std::shared_ptr<Usage> usage_;
};

}  // namespace servolley::shm
