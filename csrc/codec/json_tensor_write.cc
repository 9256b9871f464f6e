#include "codec/json_tensor_write.h"

#include <cstring>
#include <string>

#include "codec/base64.h"
#include "codec/bytes_tensor.h"
#include "codec/half.h"
#include "codec/json_write.h"
#include "codec/messages.h"

namespace servolley::codec {
namespace {

char* cursor(const BufferWriter& writer) { return reinterpret_cast<char*>(writer.tail()); }

}  // namespace

// Makes room for `needed` bytes at least. When the buffer must grow, the text written so far says
// how much the elements that are left will take.
Status TensorWriter::make_room(std::size_t needed, std::size_t more_elements) {
  if (writer_.room() >= needed) return {};
  const std::size_t done_elements = elements_ - more_elements;
  const std::size_t per_element =
      done_elements == 0 ? kFirstGuess : (writer_.size() - text_start_) / done_elements + 1;
  return writer_.reserve(needed + more_elements * per_element);
}

Status TensorWriter::write_flat() {
  text_start_ = writer_.size();
  SERVOLLEY_TRY(writer_.append("["));
  SERVOLLEY_TRY(write_row(left_));
  return writer_.append("]");
}

Status TensorWriter::write_nested(std::size_t first_dim) {
  if (left_ == elements_) text_start_ = writer_.size();
  return first_dim >= tensor_.shape.rank() ? write_row(1) : write_array(first_dim);
}

Status TensorWriter::write_array(std::size_t dim) {
  const auto count = static_cast<std::size_t>(tensor_.shape[dim]);
  SERVOLLEY_TRY(writer_.append("["));
  if (dim + 1 == tensor_.shape.rank()) {
    SERVOLLEY_TRY(write_row(count));
  } else {
    for (std::size_t i = 0; i < count; ++i) {
      if (i) SERVOLLEY_TRY(writer_.append(style_.separator));
      SERVOLLEY_TRY(write_array(dim + 1));
    }
  }
  return writer_.append("]");
}

template <class T, class Put>
Status TensorWriter::write_numbers(std::size_t count, std::size_t widest, Put put) {
  if (rest_.size() / sizeof(T) < count) return fail_short();
  // Room is checked once per block, not once per number.
  constexpr std::size_t kBlock = 64;
  const std::size_t slot = widest + 2;
  const char first = style_.separator[0];
  const char second = style_.separator.size() > 1 ? style_.separator[1] : '\0';
  const std::size_t step = style_.separator.size();
  while (count > 0) {
    const std::size_t block = count < kBlock ? count : kBlock;
    SERVOLLEY_TRY(make_room(block * slot, left_));
    char* const start = cursor(writer_);
    char* at = start;
    const std::byte* from = rest_.data();
    for (std::size_t i = 0; i < block; ++i, from += sizeof(T)) {
      T value;
      std::memcpy(&value, from, sizeof value);
      at = put(at, value);
      at[0] = first;
      at[1] = second;
      at += step;
    }
    count -= block;
    left_ -= block;
    rest_ = rest_.subspan(block * sizeof(T));
    // The last separator is not one.
    if (count == 0) at -= step;
    writer_.advance(static_cast<std::size_t>(at - start));
  }
  return {};
}

Status TensorWriter::write_floats(std::size_t count) {
  // Values are all rounded to a few decimals or hardly any is: after some misses it's not tried for
  // a while.
  constexpr int kMisses = 4;
  constexpr int kPause = 60;
  int tries = few_decimals_tries_;
  Status status =
      write_numbers<float>(count, kMaxFloatText, [&, rule = style_.floats](char* at, float value) {
        if (--tries >= 0) {
          if (char* const end = put_few_decimals(at, value)) {
            tries = kMisses;
            return end;
          }
        } else if (tries < -kPause) {
          tries = kMisses;
        }
        return put_float(at, value, rule);
      });
  few_decimals_tries_ = tries;
  return status;
}

Status TensorWriter::write_row(std::size_t count) {
  constexpr auto kInteger = [](char* at, auto value) {
    if constexpr (std::numeric_limits<decltype(value)>::is_signed)
      return put_int(at, value);
    else
      return put_uint(at, value);
  };
  constexpr std::size_t kIntegerText = 20;
  const FloatRule rule = style_.floats;
  switch (tensor_.dtype) {
    case DType::kBool:
      return write_numbers<std::uint8_t>(count, 5, [](char* at, std::uint8_t value) {
        return put_text(at, value ? "true" : "false");
      });
    case DType::kUint8:
      return write_numbers<std::uint8_t>(count, kIntegerText, kInteger);
    case DType::kUint16:
      return write_numbers<std::uint16_t>(count, kIntegerText, kInteger);
    case DType::kUint32:
      return write_numbers<std::uint32_t>(count, kIntegerText, kInteger);
    case DType::kUint64:
      return write_numbers<std::uint64_t>(count, kIntegerText, kInteger);
    case DType::kInt8:
      return write_numbers<std::int8_t>(count, kIntegerText, kInteger);
    case DType::kInt16:
      return write_numbers<std::int16_t>(count, kIntegerText, kInteger);
    case DType::kInt32:
      return write_numbers<std::int32_t>(count, kIntegerText, kInteger);
    case DType::kInt64:
      return write_numbers<std::int64_t>(count, kIntegerText, kInteger);
    case DType::kFp16:
      return write_numbers<std::uint16_t>(count, kMaxFloatText, [](char* at, std::uint16_t value) {
        return put_six_digits(at, float_from_fp16(value));
      });
    case DType::kBf16:
      return write_numbers<std::uint16_t>(count, kMaxFloatText, [](char* at, std::uint16_t value) {
        return put_six_digits(at, float_from_bf16(value));
      });
    case DType::kFp32:
      return write_floats(count);
    case DType::kFp64:
      return write_numbers<double>(count, kMaxFloatText, [rule](char* at, double value) {
        return put_double(at, value, rule);
      });
    case DType::kBytes:
      return write_bytes(count);
  }
  return {};
}

Status TensorWriter::fail_short() const {
  return internal_error(
      message("output ", quoted(output_), ": its data end before its shape does"));
}

Status TensorWriter::write_bytes(std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    if (i) SERVOLLEY_TRY(writer_.append(style_.separator));
    std::string_view element;
    if (!take_bytes_element(rest_, element)) {
      return fail_short();
    }
    --left_;
    SERVOLLEY_TRY(style_.bytes == BytesForm::kBase64 ? write_base64(element) : write_text(element));
  }
  return {};
}

Status TensorWriter::write_base64(std::string_view element) {
  const std::size_t needed = base64_size(element.size()) + 16;
  SERVOLLEY_TRY(make_room(needed, left_));
  char* const start = cursor(writer_);
  char* at = put_text(start, "{\"b64\": \"");
  at = put_base64(at, element);
  at = put_text(at, "\"}");
  writer_.advance(static_cast<std::size_t>(at - start));
  return {};
}

Status TensorWriter::write_text(std::string_view element) {
  SERVOLLEY_TRY(make_room(escaped_size(element) + 2, left_));
  char* const start = cursor(writer_);
  bool valid = true;
  char* at = start;
  *at++ = '"';  // NOLINT(clang-analyzer-core.NullDereference): there is room, so there is memory
  at = put_escaped(at, element, valid);
  *at++ = '"';
  if (!valid) {
    return {Code::kFailedPrecondition,
            message("output ", quoted(output_), " holds bytes that are not UTF-8, so JSON cannot ",
                    "carry them as text: ask for it in binary form, or (TensorFlow Serving's API) ",
                    "end its name in '_bytes'")};
  }
  writer_.advance(static_cast<std::size_t>(at - start));
  return {};
}

}  // namespace servolley::codec
