#include "shm/cuda_region.h"

#include <utility>

namespace servolley::shm {

CudaRegion::CudaRegion(std::string_view name, std::uint64_t bytes,
                       std::shared_ptr<const cuda::IpcMemory> memory, cuda::Stream stream,
                       std::shared_ptr<Usage> usage)
    : Region(name, bytes, std::move(usage)),
      memory_(std::move(memory)),
      stream_(std::move(stream)) {}

Result<std::shared_ptr<const Region>> CudaRegion::open(
    std::string_view name, std::uint64_t bytes, std::shared_ptr<const cuda::IpcMemory> memory,
    std::shared_ptr<Usage> usage) {
  if (bytes == 0) return invalid_argument("a region must have at least one byte");
  if (bytes > memory->size()) {
    return invalid_argument("the region's byte_size reaches behind the allocation's end");
  }
  auto stream = memory->gpu()->create_stream();
  if (!stream) return std::move(stream).error();
  return std::shared_ptr<const Region>(
      new CudaRegion(name, bytes, std::move(memory), std::move(*stream), std::move(usage)));
}

Status CudaRegion::read(std::uint64_t offset, std::span<std::byte> to) const {
  if (to.empty()) return {};
  SERVOLLEY_TRY(stream_.copy_to_host(to.data(), memory_->data() + offset, to.size()));
  return stream_.synchronize();
}

Status CudaRegion::write(std::uint64_t offset, std::span<const std::byte> from) const {
  if (from.empty()) return {};
  SERVOLLEY_TRY(stream_.copy_to_device(memory_->data() + offset, from.data(), from.size()));
  return stream_.synchronize();
}

}  // namespace servolley::shm
