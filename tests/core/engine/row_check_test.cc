// Models whose first dimension is no batch: their requests are kept apart.

#include "engine/row_check.h"

#include <cmath>

#include "lanes.h"

namespace servolley::engine {
namespace {

using Inputs = std::span<const TensorView>;
using Outputs = std::span<OutputTensor>;

// One output like the input, of whose values `change` makes others, row by row or not.
using Change = std::function<void(std::span<float> values, std::int64_t rows)>;

Body changing(Pool& pool, Change change) {
  return [&pool, change = std::move(change)](Inputs inputs, std::int64_t, Outputs outputs) {
    Status status = copy_through(pool, inputs, outputs);
    if (!status.ok()) return status;
    const TensorView& view = outputs[0].view;
    change({reinterpret_cast<float*>(outputs[0].owner.data()), view.bytes / sizeof(float)},
           view.shape[0]);
    return status;
  };
}

const Change kDoubles = [](std::span<float> values, std::int64_t) {
  for (float& value : values) value *= 2;
};
// As CumSum along the first axis.
const Change kAddsUp = [](std::span<float> values, std::int64_t rows) {
  const std::size_t row = values.size() / static_cast<std::size_t>(rows);
  for (std::size_t i = row; i < values.size(); ++i) values[i] += values[i - row];
};
const Change kTakesTheMean = [](std::span<float> values, std::int64_t) {
  float sum = 0;
  for (const float value : values) sum += value;
  for (float& value : values) value -= sum / static_cast<float>(values.size());
};
// As a quantization does whose scale is that of the whole batch.
const Change kRounds = [](std::span<float> values, std::int64_t) {
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  for (float& value : values) value = std::round(value / largest * 127) * largest / 127;
};

RowCheck check(const Change& change) {
  Engine engine({});
  const Body body = changing(engine.pool(), change);
  return check_rows(unary_signature(DType::kFp32, {-1, 64}), engine.pool(), body);
}

TEST_CASE("rows that a model mixes are told from those that it rounds") {
  CHECK(check(kDoubles) == RowCheck::kIndependent);
  CHECK(check(kRounds) == RowCheck::kIndependent);
  CHECK(check(kAddsUp) == RowCheck::kDependent);
  CHECK(check(kTakesTheMean) == RowCheck::kDependent);
  float noise = 0;
  CHECK(check([&](std::span<float> values, std::int64_t) {
          for (float& value : values) value += noise += 1;
        }) == RowCheck::kUnknown);
}

TEST_CASE("nothing is said of a model that refuses what it is given, or of strings") {
  Engine engine({});
  const Body refuses = [](Inputs, std::int64_t, Outputs) { return invalid_argument("no"); };
  CHECK(check_rows(unary_signature(DType::kInt64), engine.pool(), refuses) == RowCheck::kUnknown);
  const Body echoes = [&](Inputs inputs, std::int64_t, Outputs outputs) {
    return copy_through(engine.pool(), inputs, outputs);
  };
  CHECK(check_rows(unary_signature(DType::kBytes), engine.pool(), echoes) == RowCheck::kUnknown);
  for (const DType dtype : {DType::kBool, DType::kUint8, DType::kInt8, DType::kInt16, DType::kInt32,
                            DType::kInt64, DType::kFp16, DType::kBf16, DType::kFp64}) {
    CHECK(check_rows(unary_signature(dtype), engine.pool(), echoes) == RowCheck::kIndependent);
  }
}

TEST_CASE(
    "requests to a model that mixes rows are kept apart, unless somebody wants them together") {
  for (const bool on_device : {false, true}) {
    for (const int size : {-1, 8}) {
      CAPTURE(on_device);
      CAPTURE(size);
      Engine engine({});
      const Body body = changing(engine.pool(), kAddsUp);
      FakeDevice device(engine.pool(), body);
      ServableOptions options = on_device ? with_lanes(1) : with(Execution::kThreads);
      options.warmup = true;
      options.max_batch_size = size;
      const auto servable = on_device ? serve_on(engine, {&device}, options)
                                      : serve(engine, unary_signature(DType::kFp32), body, options);
      if (on_device && size < 0) {
        // Two rows apart and together before anything is filled up, and no sizes afterwards.
        CHECK(device.await_launches(6) == std::vector<std::int64_t>{1, 1, 1, 2, 0, 0});
      }
      CHECK(servable->rows_depend() == (size < 0));
      CHECK(servable->max_batch_size() == (size < 0 ? 0 : 8));
      Client a(engine);
      Client b(engine);
      a.send(infer_row(1));
      b.send(infer_row(2));
      Answer first;
      Answer second;
      REQUIRE(pump(engine, [&] { return a.read(first); }));
      REQUIRE(pump(engine, [&] { return b.read(second); }));
      CHECK(first.status == 200);
      CHECK(second.status == 200);
      if (size < 0) {
        CHECK(first_value(first) == 1);
        CHECK(first_value(second) == 2);
      }
    }
  }
  // A model that does not is none the worse for it.
  Engine engine({});
  ServableOptions options = with(Execution::kInline);
  options.warmup = true;
  const auto servable =
      serve(engine, unary_signature(DType::kFp32), doubling(engine.pool()), options);
  CHECK_FALSE(servable->rows_depend());
  CHECK(servable->max_batch_size() == 64);
}

}  // namespace
}  // namespace servolley::engine
