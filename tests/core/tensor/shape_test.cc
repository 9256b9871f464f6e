#include "tensor/shape.h"

#include <doctest/doctest.h>

using namespace servolley;

namespace {
constexpr std::int64_t kHuge = (std::int64_t{1} << 60) + 2;
constexpr std::int64_t kMost = std::numeric_limits<std::int64_t>::max();
constexpr std::int64_t kLeast = std::numeric_limits<std::int64_t>::min();
}  // namespace

TEST_CASE("element counts") {
  CHECK(Shape{}.element_count() == 1);
  CHECK(Shape{5}.element_count() == 5);
  CHECK(Shape{2, 3, 4}.element_count() == 24);
  CHECK(Shape{2, 0, 4}.element_count() == 0);
  CHECK(Shape{kMost}.element_count() == kMost);
  CHECK(Shape{kMost, 1, 1}.element_count() == kMost);
}

TEST_CASE("counts that leave 64 bits, and negative dimensions, are nothing") {
  for (const Shape& shape :
       {Shape{16, kHuge}, Shape{kMost, 2}, Shape{3, kMost}, Shape{1 << 30, 1 << 30, 1 << 30},
        Shape{2, -5}, Shape{-1}, Shape{kLeast}, Shape{-1, -1}, Shape{kLeast, kLeast},
        // A zero does not excuse its neighbours, on either side.
        Shape{0, -1}, Shape{-1, 0}, Shape{0, kMost, 2}, Shape{kMost, 2, 0}}) {
    CAPTURE(shape.to_string());
    CHECK_FALSE(shape.element_count());
    CHECK_FALSE(shape.byte_count(DType::kUint8));
    CHECK_FALSE(shape.byte_count(DType::kBytes));
  }
}

TEST_CASE("byte counts, also where the elements fit and the bytes do not") {
  CHECK(Shape{2, 3}.byte_count(DType::kFp32) == 24);
  CHECK(Shape{2, 3}.byte_count(DType::kBool) == 6);
  CHECK(Shape{2, 3}.byte_count(DType::kBytes) == 0);
  CHECK(Shape{}.byte_count(DType::kFp64) == 8);
  CHECK(Shape{0, 3}.byte_count(DType::kFp64) == 0);
  CHECK(Shape{4, kHuge}.element_count());
  CHECK_FALSE(Shape{4, kHuge}.byte_count(DType::kFp32));
  CHECK(Shape{kMost}.byte_count(DType::kUint8) == static_cast<std::size_t>(kMost));
  CHECK_FALSE(Shape{kMost}.byte_count(DType::kFp16));
  CHECK_FALSE(Shape{kMost / 8 + 1}.byte_count(DType::kInt64));
  CHECK(Shape{kMost / 8}.byte_count(DType::kInt64));
}

TEST_CASE("the count of one row leaves the batch dimension out") {
  CHECK(Shape{}.row_element_count() == 1);
  CHECK(Shape{7}.row_element_count() == 1);
  CHECK(Shape{7, 3, 2}.row_element_count() == 6);
  CHECK(Shape{0, 3}.row_element_count() == 3);
  CHECK(Shape{-1, 3}.row_element_count() == 3);
  CHECK_FALSE(Shape{1, -3}.row_element_count());
  CHECK_FALSE(Shape{1, 16, kHuge}.row_element_count());
}

TEST_CASE("shapes grow to the limit, compare and print") {
  Shape shape;
  CHECK(shape.to_string() == "[]");
  for (std::size_t i = 0; i < kMaxRank; ++i) {
    CHECK_FALSE(shape.full());
    shape.push_back(1);
  }
  CHECK(shape.full());
  CHECK(shape.rank() == kMaxRank);
  CHECK(Shape{-1, 4}.to_string() == "[-1,4]");
  CHECK(Shape{1, 2} == Shape{1, 2});
  CHECK_FALSE(Shape{1, 2} == Shape{1, 3});
  CHECK_FALSE(Shape{1, 2} == Shape{1, 2, 1});
  CHECK_FALSE(Shape{} == Shape{1});
  // What lies behind the rank does not count.
  Shape reused{1, 2, 3};
  reused.clear();
  reused.push_back(1);
  CHECK(reused == Shape{1});
}
