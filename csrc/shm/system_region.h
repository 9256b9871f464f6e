#pragma once

#include "shm/region.h"

namespace servolley::shm {

// A part of a POSIX shared memory object. The host copies bytes in and out through the descriptor.
// A client may shorten its object at any time, and touching a mapping behind the object's end kills
// the process (SIGBUS), while pread() just returns fewer bytes; it may also change the bytes
// between a check and a use, so that whatever is checked has to be a copy anyway. On tmpfs a
// pread() is the one memcpy that such a copy costs.
//
// Devices that copy by themselves may get the region pinned. Then it is mapped, but no processor
// ever touches the mapping. Pinned pages stay where they are for as long as they are pinned, also
// when the client shortens its object: then they are nobody else's, and a copy from or to them does
// no harm. A client that shortens its object and lengthens it again has new pages, and has to
// register them.
class SystemRegion final : public Region {
 public:
  // Opens `key` ("/name" or "name") read-write. INVALID_ARGUMENT for a key that names no object of
  // a client's or that cannot be opened, for a part that is empty, begins inside a page or does not
  // lie in the object; RESOURCE_EXHAUSTED if the process has no descriptors left.
  static Result<std::shared_ptr<const Region>> open(std::string_view name, std::string_view key,
                                                    std::uint64_t offset, std::uint64_t bytes,
                                                    std::shared_ptr<Usage> usage);
  ~SystemRegion() override;

  const std::string& key() const { return key_; }
  std::uint64_t offset() const { return offset_; }  // in the object

  // Takes a millisecond for a few megabytes, and the object gets all of its pages.
  bool pin(std::shared_ptr<PinnedMemory> pinning) const override;
  std::byte* pinned_data() const override { return pinned_.load(std::memory_order_acquire); }
  Status check_there(std::uint64_t offset, std::uint64_t bytes) const override;

  // INVALID_ARGUMENT if the object has become too short meanwhile. Never lengthens it on purpose.
  Status read(std::uint64_t offset, std::span<std::byte> to) const override;
  Status write(std::uint64_t offset, std::span<const std::byte> from) const override;

 private:
  SystemRegion(std::string_view name, std::string_view key, std::uint64_t offset,
               std::uint64_t bytes, int fd, std::shared_ptr<Usage> usage);
  Status too_short() const;

  const std::string key_;
  const std::uint64_t offset_;
  const int fd_;
  mutable std::shared_ptr<PinnedMemory> pinning_;  // set before pinned_ is
  mutable std::atomic<std::byte*> pinned_{nullptr};
};

}  // namespace servolley::shm
