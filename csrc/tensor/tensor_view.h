#pragma once

#include <cstddef>
#include <span>

#include "tensor/dtype.h"
#include "tensor/shape.h"

namespace servolley {

// A dense row-major tensor somewhere in memory that somebody else owns, at whatever address it came
// to lie: where alignment matters, who needs it sees to it. Little-endian. BYTES
// elements lie packed as the Open Inference Protocol's binary form has them: u32 length, then the
// bytes, back to back.
struct TensorView {
  DType dtype = DType::kFp32;
  Shape shape;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;

  std::span<const std::byte> span() const { return {data, bytes}; }
};

}  // namespace servolley
