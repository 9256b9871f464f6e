#pragma once

#include <array>
#include <optional>

#include "codec/proto_values.h"
#include "tensor/dtype.h"

// tensorflow.TensorProto: which numbers and fields stand for which datatype.
namespace servolley::codec::tf {

using proto::ValueField;
using proto::Wire;

struct TypeEntry {
  std::int32_t number;  // in tensorflow.DataType
  ValueField field;
};

inline constexpr ValueField kFloatVal{5, Wire::fixed32, "float_val"};
inline constexpr ValueField kDoubleVal{6, Wire::fixed64, "double_val"};
inline constexpr ValueField kIntVal{7, Wire::varint, "int_val"};
inline constexpr ValueField kStringVal{8, Wire::length_delimited, "string_val"};
inline constexpr ValueField kInt64Val{10, Wire::varint, "int64_val"};
inline constexpr ValueField kBoolVal{11, Wire::varint, "bool_val"};
inline constexpr ValueField kHalfVal{13, Wire::varint, "half_val"};
inline constexpr ValueField kUint32Val{16, Wire::varint, "uint32_val"};
inline constexpr ValueField kUint64Val{17, Wire::varint, "uint64_val"};

// Every field of our datatypes.
inline constexpr std::array<ValueField, 9> kValueFields{kFloatVal,  kDoubleVal, kIntVal,
                                                        kStringVal, kInt64Val,  kBoolVal,
                                                        kHalfVal,   kUint32Val, kUint64Val};

// In the order of DType.
inline constexpr std::array<TypeEntry, kDTypeCount> kTypes{{
    {10, kBoolVal},
    {4, kIntVal},   // UINT8
    {17, kIntVal},  // UINT16
    {22, kUint32Val},
    {23, kUint64Val},
    {6, kIntVal},  // INT8
    {5, kIntVal},  // INT16
    {3, kIntVal},  // INT32
    {9, kInt64Val},
    {19, kHalfVal},  // FP16
    {14, kHalfVal},  // BF16
    {1, kFloatVal},
    {2, kDoubleVal},
    {7, kStringVal},
}};

inline const TypeEntry& type_of(DType dtype) { return kTypes[static_cast<std::size_t>(dtype)]; }

inline std::optional<DType> dtype_from_number(std::int32_t number) {
  for (std::size_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes[i].number == number) return static_cast<DType>(i);
  }
  return std::nullopt;
}

inline constexpr std::uint32_t kTensorContent = 4;
inline constexpr std::string_view kDefaultSignature = "serving_default";

}  // namespace servolley::codec::tf
