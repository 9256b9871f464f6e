#include "runtime/ort/ort_dtype.h"

#include <array>

namespace servolley::ort {
namespace {

// Indexed by DType.
constexpr std::array<int, kDTypeCount> kElementTypes = {
    abi::kBool,     abi::kUint8, abi::kUint16, abi::kUint32, abi::kUint64,
    abi::kInt8,     abi::kInt16, abi::kInt32,  abi::kInt64,  abi::kFloat16,
    abi::kBfloat16, abi::kFloat, abi::kDouble, abi::kString,
};

struct TypeName {
  int type;
  const char* name;
};
// Types of the interface beyond the protocol's.
constexpr std::array<TypeName, 8> kUnsupported = {{{abi::kComplex64, "complex64"},
                                                   {abi::kComplex128, "complex128"},
                                                   {17, "float8e4m3fn"},
                                                   {18, "float8e4m3fnuz"},
                                                   {19, "float8e5m2"},
                                                   {20, "float8e5m2fnuz"},
                                                   {21, "uint4"},
                                                   {22, "int4"}}};

}  // namespace

int to_ort(DType dtype) { return kElementTypes[static_cast<std::size_t>(dtype)]; }

std::optional<DType> from_ort(int element_type) {
  for (std::size_t i = 0; i < kElementTypes.size(); ++i) {
    if (kElementTypes[i] == element_type) return static_cast<DType>(i);
  }
  return std::nullopt;
}

std::string element_type_name(int element_type) {
  for (const TypeName& row : kUnsupported) {
    if (row.type == element_type) return row.name;
  }
  return "type " + std::to_string(element_type);
}

}  // namespace servolley::ort
