#include "engine/comparison.h"

#include <doctest/doctest.h>

#include <limits>
#include <string>
#include <vector>

namespace servolley::engine {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

template <class T>
TensorView view_of(DType dtype, const Shape& shape, const std::vector<T>& values) {
  return {dtype, shape, reinterpret_cast<const std::byte*>(values.data()),
          values.size() * sizeof(T)};
}

template <class T>
Comparison compare(DType dtype, const Shape& shape, const std::vector<T>& expected,
                   const std::vector<T>& actual) {
  Comparison out;
  compare_output(view_of(dtype, shape, expected), view_of(dtype, shape, actual), out);
  return out;
}

std::vector<char> packed(const std::vector<std::string>& words) {
  std::vector<char> bytes;
  for (const std::string& word : words) {
    const auto size = static_cast<std::uint32_t>(word.size());
    const auto* raw = reinterpret_cast<const char*>(&size);
    bytes.insert(bytes.end(), raw, raw + 4);
    bytes.insert(bytes.end(), word.begin(), word.end());
  }
  return bytes;
}

TEST_CASE("what is equal has no error") {
  const Comparison same = compare<float>(DType::kFp32, {2, 2}, {1, -2, 0, 4}, {1, -2, 0, 4});
  CHECK(same.max_abs_error == 0);
  CHECK(same.max_rel_error == 0);
  CHECK(same.label_flips == 0);
  CHECK(same.nonfinite == 0);
}

TEST_CASE("errors are the largest of all elements and of all calls") {
  Comparison out = compare<double>(DType::kFp64, {4}, {1, 100, 0, -2}, {1.5, 104, 0.25, -2});
  CHECK(out.max_abs_error == 4);
  CHECK(out.max_rel_error == 1);  // from zero to anything
  const std::vector<double> a{-1};
  const std::vector<double> b{1};
  compare_output(view_of(DType::kFp64, {1}, a), view_of(DType::kFp64, {1}, b), out);
  CHECK(out.max_abs_error == 4);
  CHECK(out.max_rel_error == 2);
}

TEST_CASE("every floating-point type is read as what it is") {
  CHECK(compare<std::uint16_t>(DType::kFp16, {1}, {0x3C00}, {0x4000}).max_abs_error == 1);
  CHECK(compare<std::uint16_t>(DType::kBf16, {1}, {0x3F80}, {0x4000}).max_abs_error == 1);
  CHECK(compare<float>(DType::kFp32, {1}, {1}, {2}).max_abs_error == 1);
  CHECK(compare<double>(DType::kFp64, {1}, {1}, {2}).max_abs_error == 1);
}

TEST_CASE("a label flips where the largest element is another one") {
  const std::vector<float> a{1, 2, 3, 9, 8, 7, 0, 0, 1};
  const std::vector<float> b{1, 2, 2.5, 9, 9.5, 7, 1, 0, 0};
  CHECK(compare<float>(DType::kFp32, {3, 3}, a, b).label_flips == 2);
  CHECK(compare<float>(DType::kFp32, {1, 3, 3}, a, b).label_flips == 2);
  CHECK(compare<float>(DType::kFp32, {9}, a, b).label_flips == 0);     // no classes
  CHECK(compare<float>(DType::kFp32, {9, 1}, a, b).label_flips == 0);  // only one
}

TEST_CASE("NaN and infinity are counted, and are no errors") {
  const Comparison out = compare<double>(DType::kFp64, {6}, {kNan, kInf, 1, kNan, kInf, -kInf},
                                         {kNan, kInf, kNan, 1, -kInf, -kInf});
  CHECK(out.nonfinite == 3);
  CHECK(out.max_abs_error == 0);
  CHECK(out.max_rel_error == 0);
}

TEST_CASE("other outputs are the same or not, row by row") {
  const std::vector<std::int32_t> a{1, 2, 3, 4, 5, 6};
  const std::vector<std::int32_t> b{1, 2, 3, 5, 5, 7};
  CHECK(compare<std::int32_t>(DType::kInt32, {3, 2}, a, b).unequal_rows == 2);
  CHECK(compare<std::int32_t>(DType::kInt32, {6}, a, b).unequal_rows == 2);
  CHECK(compare<std::int32_t>(DType::kInt32, {}, {1}, {2}).unequal_rows == 1);
  CHECK(compare<std::int32_t>(DType::kInt32, {1 << 30, 0}, {}, {}).unequal_rows == 0);
  const auto c = packed({"one", "", "three", "x"});
  const auto d = packed({"one", "", "thr", "x"});
  Comparison out;
  compare_output(view_of(DType::kBytes, {2, 2}, c), view_of(DType::kBytes, {2, 2}, d), out);
  CHECK(out.unequal_rows == 1);
  compare_output(view_of(DType::kBytes, {4}, c), view_of(DType::kBytes, {4}, c), out);
  CHECK(out.unequal_rows == 1);
}

TEST_CASE("strings that end too soon are unequal, and not read beyond their end") {
  auto whole = packed({"one", "two", "three"});
  auto torn = whole;
  torn.resize(torn.size() - 2);
  Comparison out;
  compare_output(view_of(DType::kBytes, {3}, whole), view_of(DType::kBytes, {3}, torn), out);
  CHECK(out.unequal_rows == 1);
  torn.resize(9);  // in the middle of a length
  compare_output(view_of(DType::kBytes, {3}, torn), view_of(DType::kBytes, {3}, whole), out);
  CHECK(out.unequal_rows == 3);
}

TEST_CASE("another shape or dtype is all that is said") {
  const std::vector<float> a{1, 2};
  const std::vector<std::int32_t> b{5, 6};
  Comparison out;
  compare_output(view_of(DType::kFp32, {2}, a), view_of(DType::kFp32, {1, 2}, a), out);
  compare_output(view_of(DType::kFp32, {2}, a), view_of(DType::kInt32, {2}, b), out);
  CHECK(out.shape_mismatches == 2);
  CHECK(out.max_abs_error == 0);
}

}  // namespace
}  // namespace servolley::engine
