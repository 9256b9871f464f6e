#include "engine/nonfinite.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace servolley::engine {
namespace {

// Looked at together: long enough for the compiler's vectors, short enough to stop soon.
constexpr std::size_t kBlockElements = 1024;

// NaN and infinity are the values whose exponent bits are all set. `Bits` is signed, because not
// every processor compares unsigned vectors.
template <class Bits>
bool any_nonfinite(const std::byte* data, std::size_t count, Bits exponent) {
  for (std::size_t start = 0; start < count; start += kBlockElements) {
    const std::size_t size = std::min(kBlockElements, count - start);
    const std::byte* from = data + start * sizeof(Bits);
    Bits found = 0;
    for (std::size_t i = 0; i < size; ++i) {
      Bits bits;
      std::memcpy(&bits, from + i * sizeof(Bits), sizeof(Bits));
      found = static_cast<Bits>(found | ((bits & exponent) == exponent ? 1 : 0));
    }
    if (found) return true;
  }
  return false;
}

}  // namespace

bool has_nonfinite(const TensorView& view) {
  switch (view.dtype) {
    case DType::kFp16:
      return any_nonfinite<std::int16_t>(view.data, view.bytes / 2, 0x7C00);
    case DType::kBf16:
      return any_nonfinite<std::int16_t>(view.data, view.bytes / 2, 0x7F80);
    case DType::kFp32:
      return any_nonfinite<std::int32_t>(view.data, view.bytes / 4, 0x7F800000);
    case DType::kFp64:
      return any_nonfinite<std::int64_t>(view.data, view.bytes / 8, 0x7FF0000000000000);
    default:
      return false;
  }
}

}  // namespace servolley::engine
