#pragma once

// tensor [layer 1]: what a tensor is - dtype, shape, view, signature. No memory is owned here.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace servolley {

// The datatypes of the Open Inference Protocol.
enum class DType : std::uint8_t {
  kBool,
  kUint8,
  kUint16,
  kUint32,
  kUint64,
  kInt8,
  kInt16,
  kInt32,
  kInt64,
  kFp16,
  kBf16,
  kFp32,
  kFp64,
  kBytes,
};
inline constexpr std::size_t kDTypeCount = 14;

// Bytes of one element; 0 for BYTES, whose elements vary in length.
std::size_t element_size(DType dtype);
// "FP32", as the Open Inference Protocol writes it.
std::string_view oip_name(DType dtype);
std::optional<DType> dtype_from_oip(std::string_view name);
// "DT_FLOAT", as TensorFlow writes it.
std::string_view tf_name(DType dtype);
inline bool is_floating(DType d) {
  return d == DType::kFp16 || d == DType::kBf16 || d == DType::kFp32 || d == DType::kFp64;
}

}  // namespace servolley
