#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>

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

  // Besides what Region::open says: INVALID_ARGUMENT for an impossible name, ALREADY_EXISTS for one
  // that is taken, RESOURCE_EXHAUSTED above the quota. Nothing is opened then.
  Status add(std::string_view name, std::string_view key, std::uint64_t offset,
             std::uint64_t bytes);
  // Forgets the name, if it is known. Requests that use the region keep it until they are answered.
  void remove(std::string_view name);
  void clear() { table_.clear(); }

  // NOT_FOUND for an unknown name.
  Result<std::shared_ptr<const Region>> find(std::string_view name) const;
  const Table& table() const { return table_; }
  const Usage& usage() const { return *usage_; }
  bool enabled() const { return quota_.regions > 0; }

 private:
  const Quota quota_;
  const std::shared_ptr<Usage> usage_;  // regions may outlive the table
  Table table_;
};

}  // namespace servolley::shm
