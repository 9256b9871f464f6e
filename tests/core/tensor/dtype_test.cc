#include "tensor/dtype.h"

#include <doctest/doctest.h>

#include <string>

using namespace servolley;

TEST_CASE("names and sizes of every datatype") {
  const struct {
    DType dtype;
    const char* oip;
    const char* tf;
    std::size_t size;
    bool floating;
  } rows[] = {
      {DType::kBool, "BOOL", "DT_BOOL", 1, false},
      {DType::kUint8, "UINT8", "DT_UINT8", 1, false},
      {DType::kUint16, "UINT16", "DT_UINT16", 2, false},
      {DType::kUint32, "UINT32", "DT_UINT32", 4, false},
      {DType::kUint64, "UINT64", "DT_UINT64", 8, false},
      {DType::kInt8, "INT8", "DT_INT8", 1, false},
      {DType::kInt16, "INT16", "DT_INT16", 2, false},
      {DType::kInt32, "INT32", "DT_INT32", 4, false},
      {DType::kInt64, "INT64", "DT_INT64", 8, false},
      {DType::kFp16, "FP16", "DT_HALF", 2, true},
      {DType::kBf16, "BF16", "DT_BFLOAT16", 2, true},
      {DType::kFp32, "FP32", "DT_FLOAT", 4, true},
      {DType::kFp64, "FP64", "DT_DOUBLE", 8, true},
      {DType::kBytes, "BYTES", "DT_STRING", 0, false},
  };
  CHECK(std::size(rows) == kDTypeCount);
  for (const auto& row : rows) {
    CHECK(oip_name(row.dtype) == row.oip);
    CHECK(tf_name(row.dtype) == row.tf);
    CHECK(element_size(row.dtype) == row.size);
    CHECK(is_floating(row.dtype) == row.floating);
    CHECK(dtype_from_oip(row.oip) == row.dtype);
  }
  for (const char* unknown : {"", "fp32", "FP32 ", "FP8", "STRING", "DT_FLOAT", "INT"}) {
    CHECK_FALSE(dtype_from_oip(unknown));
  }
}
