#include "engine/gpus.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace servolley::engine {

std::string compute_capability(const cuda::DeviceInfo& info) {
  return std::to_string(info.compute_major) + "." + std::to_string(info.compute_minor);
}

Result<std::string> file_for(std::span<const cuda::DeviceInfo> gpus,
                             const std::map<std::string, std::string>& files,
                             const std::string& otherwise) {
  std::string chosen = otherwise;
  for (std::size_t i = 0; i < gpus.size(); ++i) {
    const auto at = files.find(compute_capability(gpus[i]));
    const std::string& file = at == files.end() ? otherwise : at->second;
    if (i > 0 && file != chosen) {
      std::string text = "one model runs on GPUs that have different files: '";
      text.append(chosen).append("' and '").append(file).append("'");
      return invalid_argument(std::move(text));
    }
    chosen = file;
  }
  return chosen;
}

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

Result<std::vector<DeviceId>> Gpus::all() {
  const auto found = devices();
  if (!found) return found.error();
  if (found->empty()) return Status(Code::kFailedPrecondition, "there is no GPU");
  std::vector<DeviceId> out;
  for (const cuda::DeviceInfo& info : *found) out.push_back({DeviceKind::kCuda, info.index});
  return out;
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
