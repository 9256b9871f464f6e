#include "shm/region.h"

#include <utility>

namespace servolley::shm {

Region::Region(std::string_view name, std::uint64_t bytes, std::shared_ptr<Usage> usage)
    : name_(name), bytes_(bytes), usage_(std::move(usage)) {
  ++usage_->regions;
  usage_->bytes += bytes_;
}

Region::~Region() {
  --usage_->regions;
  usage_->bytes -= bytes_;
}

Status Region::check_range(std::uint64_t offset, std::uint64_t bytes) const {
  if (offset < bytes_ && bytes <= bytes_ - offset) return {};
  return invalid_argument("offset " + std::to_string(offset) + " and byte size " +
                          std::to_string(bytes) + " do not lie in a shared memory region of " +
                          std::to_string(bytes_) + " bytes");
}

}  // namespace servolley::shm
