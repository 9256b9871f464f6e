#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace servolley::codec {

// The checksum of TensorFlow's record files (Castagnoli's polynomial).
std::uint32_t crc32c(std::span<const std::byte> data);

}  // namespace servolley::codec
