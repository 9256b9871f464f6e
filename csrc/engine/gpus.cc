#include "engine/gpus.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace servolley::engine {

Gpus::Gpus(std::string library, std::size_t memory_bytes, HostDevice& host, Pool& host_pool)
    : library_(std::move(library)),
      memory_bytes_(memory_bytes),
      host_(host),
      host_pool_(host_pool) {}

Result<std::shared_ptr<cuda::Driver>> Gpus::driver() {
  if (!driver_) {
    auto opened = cuda::Driver::open(library_);
    if (!opened) return opened;
    driver_ = std::move(*opened);
  }
  return driver_;
}

Result<GpuInUse*> Gpus::use(int index) {
  const std::lock_guard opening(opening_mutex_);
  for (GpuInUse* gpu : in_use()) {
    if (gpu->device->info().index == index) return gpu;
  }
  auto driver = this->driver();
  if (!driver) return std::move(driver).error();
  auto device = (*driver)->gpu(index);
  if (!device) return std::move(device).error();
  auto gpu = std::make_unique<GpuInUse>();
  gpu->device = std::move(*device);
  // Freeing device memory waits for the device, so everything is kept.
  constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();
  const std::size_t has = gpu->device->info().total_bytes;
  gpu->memory = std::make_unique<Pool>(
      *gpu->device,
      Pool::Options{.ceiling_bytes = memory_bytes_ ? std::min(memory_bytes_, has) : has,
                    .keep_block_bytes = kAll,
                    .keep_total_bytes = kAll});
  if (host_.use_pinned(gpu->device)) host_pool_.renew();
  const std::lock_guard lock(mutex_);
  return in_use_.emplace_back(std::move(gpu)).get();
}

Result<std::vector<cuda::DeviceInfo>> Gpus::devices() {
  const std::lock_guard opening(opening_mutex_);
  auto driver = this->driver();
  if (!driver) return std::move(driver).error();
  return (*driver)->devices();
}

DeviceId Gpus::best() {
  const auto found = devices();
  if (!found || found->empty()) return {};
  const auto largest =
      std::max_element(found->begin(), found->end(),
                       [](const auto& a, const auto& b) { return a.total_bytes < b.total_bytes; });
  return {DeviceKind::kCuda, largest->index};
}

std::vector<GpuInUse*> Gpus::in_use() const {
  const std::lock_guard lock(mutex_);
  std::vector<GpuInUse*> out;
  out.reserve(in_use_.size());
  for (const auto& gpu : in_use_) out.push_back(gpu.get());
  return out;
}

}  // namespace servolley::engine
