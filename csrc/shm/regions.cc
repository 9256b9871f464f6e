#include "shm/regions.h"

#include <algorithm>
#include <utility>

#include "shm/cuda_region.h"
#include "shm/system_region.h"

namespace servolley::shm {
namespace {

constexpr std::size_t kLongestName = 256;

bool possible_name(std::string_view name) {
  return !name.empty() && name.size() <= kLongestName &&
         std::none_of(name.begin(), name.end(),
                      [](char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; });
}

}  // namespace

Status Regions::may_add(std::string_view name, std::uint64_t bytes) const {
  if (!possible_name(name)) {
    return invalid_argument("a region's name has 1 to " + std::to_string(kLongestName) +
                            " bytes and no control characters");
  }
  if (table_.contains(name)) {
    return {Code::kAlreadyExists,
            "shared memory region '" + std::string(name) + "' already in manager"};
  }
  if (usage_->regions >= quota_.regions) {
    return {
        Code::kResourceExhausted,
        "there may be no more than " + std::to_string(quota_.regions) + " shared memory regions"};
  }
  // The sum never wraps: it is at most the quota.
  if (bytes > quota_.bytes || usage_->bytes > quota_.bytes - bytes) {
    return {Code::kResourceExhausted, "shared memory regions may take no more than " +
                                          std::to_string(quota_.bytes) + " bytes together"};
  }
  return {};
}

Status Regions::put(std::string_view name, Result<std::shared_ptr<const Region>> region) {
  if (!region) return std::move(region).error();
  table_.emplace(name, std::move(*region));
  return {};
}

Status Regions::add(std::string_view name, std::string_view key, std::uint64_t offset,
                    std::uint64_t bytes) {
  SERVOLLEY_TRY(may_add(name, bytes));
  return put(name, SystemRegion::open(name, key, offset, bytes, usage_));
}

Status Regions::add_cuda(std::string_view name, std::uint64_t bytes,
                         std::shared_ptr<const cuda::IpcMemory> memory) {
  SERVOLLEY_TRY(may_add(name, bytes));
  return put(name, CudaRegion::open(name, bytes, std::move(memory), usage_));
}

void Regions::remove(DeviceKind kind, std::string_view name) {
  const auto at = table_.find(name);
  if (at != table_.end() && at->second->device().kind == kind) table_.erase(at);
}

void Regions::remove_all(DeviceKind kind) {
  std::erase_if(table_, [kind](const auto& entry) { return entry.second->device().kind == kind; });
}

Result<std::shared_ptr<const Region>> Regions::find(std::string_view name) const {
  const auto at = table_.find(name);
  if (at != table_.end()) return at->second;
  std::string text = "Unable to find shared memory region: '";
  text += name.substr(0, kLongestName);
  return not_found(text += '\'');
}

}  // namespace servolley::shm
