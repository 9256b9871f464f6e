#include "runtime/ort/output_plan.h"

#include <doctest/doctest.h>

using namespace servolley;
using servolley::ort::OutputPlan;

namespace {

TensorSpec spec(Shape shape, std::vector<std::string> names, DType dtype = DType::kFp32) {
  names.resize(shape.rank());
  TensorSpec made;
  made.dtype = dtype;
  made.shape = shape;
  made.dim_names = std::move(names);
  return made;
}

}  // namespace

TEST_CASE("shapes of outputs from fixed dimensions, names and rows") {
  Signature signature;
  signature.inputs = {spec({-1, 3}, {"batch", ""}), spec({-1, -1}, {"batch", "words"})};
  const TensorView inputs[] = {{DType::kFp32, {5, 3}, nullptr, 0},
                               {DType::kFp32, {5, 7}, nullptr, 0}};
  const struct {
    TensorSpec output;
    std::int64_t rows;
    bool possible;
    std::optional<Shape> shape;
  } cases[] = {
      {spec({2, 3}, {}), 0, true, Shape{2, 3}},
      {spec({}, {}), 0, true, Shape{}},
      {spec({-1, 4}, {"batch", ""}), 0, true, Shape{5, 4}},
      {spec({-1, -1}, {"batch", "words"}), 5, true, Shape{5, 7}},
      {spec({-1, -1}, {"words", "words"}), 0, true, Shape{7, 7}},
      {spec({-1, 4}, {"", ""}), 5, true, Shape{5, 4}},
      {spec({-1, 4}, {"", ""}), 0, true, std::nullopt},
      {spec({-1, 4}, {"fresh_name", ""}), 5, true, Shape{5, 4}},
      {spec({4, -1}, {"", ""}), 5, false, std::nullopt},
      {spec({4, -1}, {"", "hits"}), 5, false, std::nullopt},
      {spec({-1}, {"batch"}, DType::kBytes), 5, false, std::nullopt},
  };
  for (const auto& c : cases) {
    CAPTURE(c.output.shape.to_string());
    const OutputPlan plan(signature, c.output);
    CHECK(plan.possible() == c.possible);
    if (c.possible) CHECK(plan.infer(inputs, c.rows) == c.shape);
  }
  TensorSpec unknown = spec({}, {});
  unknown.rank_known = false;
  CHECK_FALSE(OutputPlan(signature, unknown).possible());
}

TEST_CASE("an input with fewer dimensions than declared leaves the shape unknown") {
  Signature signature;
  signature.inputs = {spec({-1, -1}, {"batch", "words"})};
  const TensorView inputs[] = {{DType::kFp32, {5}, nullptr, 0}};
  const OutputPlan plan(signature, spec({-1}, {"words"}));
  CHECK_FALSE(plan.infer(inputs, 5));
}
