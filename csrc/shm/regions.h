#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "device/cuda/ipc_memory.h"
#include "shm/region.h"

namespace servolley::shm {

// What clients may register together. No regions: registering is off.
struct Quota {
  std::size_t regions = 0;
  std::uint64_t bytes = 0;
};

// The regions by the names that clients gave them. Loop thread only.
class Regions {
 public:
  using Table = std::map<std::string, std::shared_ptr<const Region>, std::less<>>;

  explicit Regions(Quota quota) : quota_(quota), usage_(std::make_shared<Usage>()) {}

  // Whether a region of that size may have that name: INVALID_ARGUMENT for an impossible name,
  // ALREADY_EXISTS for one that is taken, RESOURCE_EXHAUSTED above the quota.
  Status may_add(std::string_view name, std::uint64_t bytes) const;
  // Opens a part of a POSIX object, if it may be added; besides that what SystemRegion::open says.
  Status add(std::string_view name, std::string_view key, std::uint64_t offset,
             std::uint64_t bytes);
  // The same for memory of a GPU, which was opened before: that takes too long for the loop.
  Status add_cuda(std::string_view name, std::uint64_t bytes,
                  std::shared_ptr<const cuda::IpcMemory> memory);
  // Forgets the region of that name and kind, if there is one; without a name all of that kind.
  // Requests that use a region keep it until they are answered.
  void remove(DeviceKind kind, std::string_view name);
  void remove_all(DeviceKind kind);
  void clear() { table_.clear(); }

  // NOT_FOUND for an unknown name.
  Result<std::shared_ptr<const Region>> find(std::string_view name) const;
  const Table& table() const { return table_; }
  const Usage& usage() const { return *usage_; }
  bool enabled() const { return quota_.regions > 0; }

 private:
  Status put(std::string_view name, Result<std::shared_ptr<const Region>> region);

  const Quota quota_;
  const std::shared_ptr<Usage> usage_;  // regions may outlive the table
  Table table_;
};

}  // namespace servolley::shm
