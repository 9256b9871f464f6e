#include "tensor/dtype.h"

#include <array>

namespace servolley {
namespace {

struct DTypeRow {
  std::string_view oip;
  std::string_view tf;
  std::size_t size;
};

constexpr std::array<DTypeRow, kDTypeCount> kRows = {{
    {"BOOL", "DT_BOOL", 1},
    {"UINT8", "DT_UINT8", 1},
    {"UINT16", "DT_UINT16", 2},
    {"UINT32", "DT_UINT32", 4},
    {"UINT64", "DT_UINT64", 8},
    {"INT8", "DT_INT8", 1},
    {"INT16", "DT_INT16", 2},
    {"INT32", "DT_INT32", 4},
    {"INT64", "DT_INT64", 8},
    {"FP16", "DT_HALF", 2},
    {"BF16", "DT_BFLOAT16", 2},
    {"FP32", "DT_FLOAT", 4},
    {"FP64", "DT_DOUBLE", 8},
    {"BYTES", "DT_STRING", 0},
}};

}  // namespace

std::size_t element_size(DType dtype) { return kRows[static_cast<std::size_t>(dtype)].size; }
std::string_view oip_name(DType dtype) { return kRows[static_cast<std::size_t>(dtype)].oip; }
std::string_view tf_name(DType dtype) { return kRows[static_cast<std::size_t>(dtype)].tf; }

std::optional<DType> dtype_from_oip(std::string_view name) {
  for (std::size_t i = 0; i < kRows.size(); ++i) {
    if (kRows[i].oip == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

}  // namespace servolley
