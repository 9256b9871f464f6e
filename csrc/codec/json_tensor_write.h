#pragma once

#include <cstddef>
#include <string_view>

#include "base/status.h"
#include "codec/number_format.h"
#include "memory/buffer_writer.h"
#include "tensor/tensor_view.h"

namespace servolley::codec {

enum class BytesForm : std::uint8_t { kText, kBase64 };

// How a tensor's elements are written.
struct TensorStyle {
  FloatRule floats = FloatRule::kShortest;
  BytesForm bytes = BytesForm::kText;
  std::string_view separator = ",";  // between elements and between arrays, at most 2 bytes
};

// Writes elements of a tensor as JSON behind what the writer holds. Works through the tensor from
// front to back, so that BYTES, whose elements have no fixed place, can be written in parts.
class TensorWriter {
 public:
  // `tensor` and `writer` must outlive this. `output` names the tensor in messages.
  TensorWriter(const TensorView& tensor, std::string_view output, TensorStyle style,
               BufferWriter& writer)
      : tensor_(tensor),
        output_(output),
        style_(style),
        writer_(writer),
        rest_(tensor.span()),
        elements_(static_cast<std::size_t>(tensor.shape.element_count().value_or(0))),
        left_(elements_) {}

  // All elements in one flat array.
  Status write_flat();
  // The next part of the tensor, nested as dimensions first_dim... say; one plain element if there
  // are none.
  Status write_nested(std::size_t first_dim);

 private:
  static constexpr std::size_t kFirstGuess = 4;  // bytes of text per element

  Status write_array(std::size_t dim);
  Status write_row(std::size_t count);
  Status write_floats(std::size_t count);
  template <class T, class Put>
  Status write_numbers(std::size_t count, std::size_t widest, Put put);
  Status write_bytes(std::size_t count);
  Status write_text(std::string_view element);
  Status write_base64(std::string_view element);
  Status fail_short() const;
  Status make_room(std::size_t needed, std::size_t more_elements);

  const TensorView& tensor_;
  std::string_view output_;
  TensorStyle style_;
  BufferWriter& writer_;
  std::span<const std::byte> rest_;
  std::size_t elements_;
  std::size_t left_;
  std::size_t text_start_ = 0;
  int few_decimals_tries_ = 4;
};

}  // namespace servolley::codec
