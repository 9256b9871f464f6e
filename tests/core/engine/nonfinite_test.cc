#include "engine/nonfinite.h"

#include <doctest/doctest.h>

#include <cstring>
#include <limits>
#include <vector>

namespace servolley::engine {
namespace {

template <class T>
bool found(DType dtype, const std::vector<T>& values) {
  TensorView view;
  view.dtype = dtype;
  view.shape = {static_cast<std::int64_t>(values.size())};
  view.data = reinterpret_cast<const std::byte*>(values.data());
  view.bytes = values.size() * sizeof(T);
  return has_nonfinite(view);
}

// At both ends, around the edges of a block, and in the odd elements behind the last whole one.
template <class T>
void check_every_place(DType dtype, T fine, const std::vector<T>& bad) {
  std::vector<T> values(2500, fine);
  CHECK_FALSE(found(dtype, values));
  for (const T value : bad) {
    for (const std::size_t place : {0, 1, 1023, 1024, 1025, 2047, 2048, 2498, 2499}) {
      values[place] = value;
      CHECK(found(dtype, values));
      values[place] = fine;
    }
  }
}

TEST_CASE("NaN and infinity are found wherever they are") {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  check_every_place<float>(DType::kFp32, std::numeric_limits<float>::lowest(),
                           {kInf, -kInf, kNan, -kNan});
  check_every_place<double>(DType::kFp64, std::numeric_limits<double>::max(),
                            {kInf, -kInf, kNan, -kNan});
  check_every_place<std::uint16_t>(DType::kFp16, 0x7BFF, {0x7C00, 0xFC00, 0x7C01, 0xFFFF});
  check_every_place<std::uint16_t>(DType::kBf16, 0xFF7F, {0x7F80, 0xFF80, 0x7F81, 0xFFFF});
}

TEST_CASE("integers, booleans and strings have no such values; nothing is in nothing") {
  CHECK_FALSE(found<std::int32_t>(DType::kInt32, {0x7F800000, -1}));
  CHECK_FALSE(found<std::uint16_t>(DType::kUint16, {0xFFFF}));
  CHECK_FALSE(found<std::uint8_t>(DType::kBytes, {255, 255, 255, 255}));
  CHECK_FALSE(found<float>(DType::kFp32, {}));
}

TEST_CASE("an unaligned tensor is read as it lies") {
  std::vector<std::byte> bytes(4 * 100 + 1);
  const float value = std::numeric_limits<float>::infinity();
  std::memcpy(bytes.data() + 1 + 4 * 99, &value, sizeof value);
  CHECK(has_nonfinite({DType::kFp32, {100}, bytes.data() + 1, 400}));
  CHECK_FALSE(has_nonfinite({DType::kFp32, {99}, bytes.data() + 1, 396}));
}

}  // namespace
}  // namespace servolley::engine
