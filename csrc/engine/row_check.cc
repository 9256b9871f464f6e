#include "engine/row_check.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "engine/comparison.h"

namespace servolley::engine {
namespace {

// Of an output's largest value: less may be what kernels for two rows round differently, or a
// quantization whose scale is that of the whole batch.
constexpr double kTolerance = 0.1;

// Values between -1 and 1, or those of an index or a flag. False for a type that has no such.
class Values {
 public:
  // `high`: in the upper quarter of the range, so that the row is no more like another than two
  // requests are; means of many values would all be near zero.
  bool fill(DType dtype, std::span<std::byte> bytes, bool high) {
    high_ = high;
    switch (dtype) {
      case DType::kFp64:
        return each<double>(bytes, [](unsigned v) { return static_cast<double>(v) / 128 - 1; });
      case DType::kFp32:
        return each<float>(bytes, [](unsigned v) { return static_cast<float>(v) / 128 - 1; });
      case DType::kFp16:  // halves, quarters and ones have short names
        return each<std::uint16_t>(bytes, [](unsigned v) { return kHalves[v % 4]; });
      case DType::kBf16:
        return each<std::uint16_t>(bytes, [](unsigned v) { return kBrainHalves[v % 4]; });
      case DType::kUint8:
        return each<std::uint8_t>(bytes, [](unsigned v) { return static_cast<std::uint8_t>(v); });
      case DType::kBool:
      case DType::kInt8:
        return each<std::uint8_t>(bytes, flag<std::uint8_t>);
      case DType::kInt16:
      case DType::kUint16:
        return each<std::uint16_t>(bytes, flag<std::uint16_t>);
      case DType::kInt32:
      case DType::kUint32:
        return each<std::uint32_t>(bytes, flag<std::uint32_t>);
      case DType::kInt64:
      case DType::kUint64:
        return each<std::uint64_t>(bytes, flag<std::uint64_t>);
      default:
        return false;
    }
  }

 private:
  static constexpr std::uint16_t kHalves[] = {0x3800, 0x3c00, 0xbc00, 0x3400};
  static constexpr std::uint16_t kBrainHalves[] = {0x3f00, 0x3f80, 0xbf80, 0x3e80};

  template <class T>
  static T flag(unsigned value) {
    return static_cast<T>(value & 1);
  }
  template <class T, class Make>
  bool each(std::span<std::byte> bytes, Make make) {
    for (std::size_t at = 0; at + sizeof(T) <= bytes.size(); at += sizeof(T)) {
      state_ = state_ * 6364136223846793005U + 1442695040888963407U;
      const auto random = static_cast<unsigned>(state_ >> 56);
      const T value = make(high_ ? 192 + random / 4 : random);
      std::memcpy(bytes.data() + at, &value, sizeof(T));
    }
    return true;
  }

  std::uint64_t state_ = 1;
  bool high_ = false;
};

// One or both of two rows.
TensorView rows_of_two(const TensorView& both, std::int64_t first, std::int64_t rows) {
  TensorView view = both;
  view.shape[0] = rows;
  view.bytes = both.bytes / 2 * static_cast<std::size_t>(rows);
  view.data = both.data + both.bytes / 2 * static_cast<std::size_t>(first);
  return view;
}

bool about_equal(const TensorView& expected, const TensorView& actual) {
  Comparison difference;
  compare_output(expected, actual, difference);
  if (difference.unequal_rows || difference.nonfinite || difference.shape_mismatches) return false;
  if (difference.max_abs_error == 0) return true;
  const std::vector<std::byte> nothing(expected.bytes);
  TensorView zeros = expected;
  zeros.data = nothing.data();
  Comparison size;
  compare_output(expected, zeros, size);
  return difference.max_abs_error <= kTolerance * size.max_abs_error;
}

class TwoRows {
 public:
  TwoRows(const Signature& signature, const RunRows& run) : signature_(signature), run_(run) {}

  bool make_inputs(Pool& pool) {
    Values values;
    for (const TensorSpec& spec : signature_.inputs) {
      TensorView view;
      view.dtype = spec.dtype;
      view.shape.push_back(2);
      for (std::size_t i = 1; i < spec.shape.rank(); ++i) {
        view.shape.push_back(spec.shape[i] < 0 ? 1 : spec.shape[i]);
      }
      const auto bytes = view.shape.byte_count(spec.dtype);
      if (!spec.rank_known || spec.dtype == DType::kBytes || !bytes) return false;
      auto buffer = pool.allocate(std::max<std::size_t>(*bytes, 1));
      if (!buffer || !values.fill(spec.dtype, {buffer->data(), *bytes / 2}, false) ||
          !values.fill(spec.dtype, {buffer->data() + *bytes / 2, *bytes / 2}, true)) {
        return false;
      }
      view.data = buffer->data();
      view.bytes = *bytes;
      inputs_.push_back(view);
      memory_.push_back(std::move(*buffer));
    }
    return true;
  }
  bool run(std::int64_t first, std::int64_t rows, std::vector<OutputTensor>& outputs) {
    std::vector<TensorView> views;
    for (const TensorView& both : inputs_) views.push_back(rows_of_two(both, first, rows));
    outputs = std::vector<OutputTensor>(signature_.outputs.size());
    return run_(views, rows, outputs).ok();
  }

 private:
  const Signature& signature_;
  const RunRows& run_;
  std::vector<TensorView> inputs_;
  std::vector<Buffer> memory_;
};

bool has_rows(const OutputTensor& output, std::int64_t rows) {
  return output.view.shape.rank() > 0 && output.view.shape[0] == rows;
}

}  // namespace

RowCheck check_rows(const Signature& signature, Pool& pool, const RunRows& run) {
  TwoRows rows(signature, run);
  std::vector<OutputTensor> first;
  std::vector<OutputTensor> again;
  std::vector<OutputTensor> second;
  std::vector<OutputTensor> both;
  if (!rows.make_inputs(pool) || !rows.run(0, 1, first) || !rows.run(0, 1, again) ||
      !rows.run(1, 1, second) || !rows.run(0, 2, both)) {
    return RowCheck::kUnknown;
  }
  for (std::size_t o = 0; o < signature.outputs.size(); ++o) {
    // Outputs without a row for each are found by every batch.
    if (signature.outputs[o].dtype == DType::kBytes) continue;
    if (!has_rows(first[o], 1) || !has_rows(second[o], 1) || !has_rows(both[o], 2)) continue;
    if (!about_equal(first[o].view, again[o].view)) return RowCheck::kUnknown;
    if (!about_equal(first[o].view, rows_of_two(both[o].view, 0, 1)) ||
        !about_equal(second[o].view, rows_of_two(both[o].view, 1, 1))) {
      return RowCheck::kDependent;
    }
  }
  return RowCheck::kIndependent;
}

}  // namespace servolley::engine
