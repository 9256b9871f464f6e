#include "codec/classification.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "codec/messages.h"
#include "memory/buffer_writer.h"

namespace servolley::codec {
namespace {

template <class T>
T load(const std::byte* data, std::size_t index) {
  T value;
  std::memcpy(&value, data + index * sizeof(T), sizeof(T));
  return value;
}

// Writes the best `k` of `count` elements. `order` has room for `count` indices.
template <class T>
Status classify_row(const std::byte* data, std::size_t count, std::size_t k,
                    const std::vector<std::string>& labels, std::uint32_t* order,
                    BufferWriter& out) {
  for (std::size_t i = 0; i < count; ++i) order[i] = static_cast<std::uint32_t>(i);
  std::partial_sort(order, order + k, order + count, [&](std::uint32_t a, std::uint32_t b) {
    const T x = load<T>(data, a);
    const T y = load<T>(data, b);
    if constexpr (std::is_floating_point_v<T>) {
      if (std::isnan(x) || std::isnan(y)) {
        return std::isnan(x) == std::isnan(y) ? a < b : std::isnan(y);
      }
    }
    return x != y ? x > y : a < b;
  });
  for (std::size_t i = 0; i < k; ++i) {
    const std::uint32_t index = order[i];
    std::string text = std::to_string(load<T>(data, index));
    text += ':';
    text += std::to_string(index);
    if (index < labels.size() && !labels[index].empty()) {
      text += ':';
      text += labels[index];
    }
    const auto length = static_cast<std::uint32_t>(text.size());
    SERVOLLEY_TRY(out.append(&length, sizeof length));
    SERVOLLEY_TRY(out.append(text));
  }
  return {};
}

using RowFunction = Status (*)(const std::byte*, std::size_t, std::size_t,
                               const std::vector<std::string>&, std::uint32_t*, BufferWriter&);

RowFunction row_function(DType dtype) {
  switch (dtype) {
    case DType::kUint8:
      return classify_row<std::uint8_t>;
    case DType::kUint16:
      return classify_row<std::uint16_t>;
    case DType::kUint32:
      return classify_row<std::uint32_t>;
    case DType::kUint64:
      return classify_row<std::uint64_t>;
    case DType::kInt8:
      return classify_row<std::int8_t>;
    case DType::kInt16:
      return classify_row<std::int16_t>;
    case DType::kInt32:
      return classify_row<std::int32_t>;
    case DType::kInt64:
      return classify_row<std::int64_t>;
    case DType::kFp32:
      return classify_row<float>;
    case DType::kFp64:
      return classify_row<double>;
    case DType::kBool:
    case DType::kFp16:
    case DType::kBf16:
    case DType::kBytes:
      return nullptr;
  }
  return nullptr;
}

}  // namespace

bool can_classify(DType dtype) { return row_function(dtype) != nullptr; }

Result<ClassifiedTensor> classify(const TensorView& source, const TensorSpec& spec, bool batched,
                                  std::uint32_t k, Pool& pool) {
  const RowFunction row = row_function(source.dtype);
  if (!row) {
    return invalid_argument(message("output ", quoted(spec.name), " is ", oip_name(source.dtype),
                                    ": classification needs an integer, FP32 or FP64 tensor"));
  }
  const auto total = source.shape.element_count();
  if (!total || static_cast<std::size_t>(*total) > kMaxClassifiedElements) {
    return invalid_argument(message("output ", quoted(spec.name), " with shape ",
                                    source.shape.to_string(), " has too many elements for ",
                                    "classification (limit ",
                                    std::to_string(kMaxClassifiedElements), ")"));
  }
  const bool has_rows = batched && source.shape.rank() > 0;
  const auto count =
      static_cast<std::size_t>(has_rows ? source.shape.row_element_count().value_or(0) : *total);
  const std::size_t rows = has_rows ? static_cast<std::size_t>(source.shape[0]) : 1;
  const std::size_t best = std::min<std::size_t>(k, count);

  auto order = pool.allocate(count * sizeof(std::uint32_t));
  if (!order) return std::move(order).error();
  BufferWriter out(pool);
  if (Status status = out.reserve(rows * best * 16); !status.ok()) return status;
  for (std::size_t i = 0; i < rows && best > 0; ++i) {
    Status status = row(source.data + i * count * element_size(source.dtype), count, best,
                        spec.labels, reinterpret_cast<std::uint32_t*>(order->data()), out);
    if (!status.ok()) return status;
  }
  ClassifiedTensor result;
  result.view.dtype = DType::kBytes;
  if (has_rows) result.view.shape.push_back(source.shape[0]);
  result.view.shape.push_back(static_cast<std::int64_t>(best));
  result.view.data = out.data();
  result.view.bytes = out.size();
  result.owner = out.take();
  return result;
}

}  // namespace servolley::codec
