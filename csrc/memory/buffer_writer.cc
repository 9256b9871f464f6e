#include "memory/buffer_writer.h"

namespace servolley {

Status BufferWriter::grow(std::size_t more) {
  if (more > limit_ - size_) {
    return too_large("more than " + std::to_string(limit_) + " bytes");
  }
  const std::size_t wanted = std::max({size_ + more, buffer_.capacity() * 2, std::size_t{256}});
  auto grown = pool_->allocate(std::min(wanted, std::max(limit_, size_ + more)));
  if (!grown) return std::move(grown).error();
  if (size_) std::memcpy(grown->data(), buffer_.data(), size_);
  buffer_ = std::move(*grown);
  end_ = std::min(buffer_.capacity(), limit_);
  return {};
}

}  // namespace servolley
