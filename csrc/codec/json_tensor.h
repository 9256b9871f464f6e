#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "codec/decode_budget.h"
#include "codec/infer.h"
#include "codec/json_reader.h"

namespace servolley::codec {

// A finite decimal literal that rounds to infinity: TensorFlow Serving stores infinity (unless the
// literal is beyond FP64), the Open Inference Protocol refuses it.
enum class FloatOverflow : std::uint8_t { kInfinity, kRefuse };

// Where a tensor's text is read from, and by which rules.
struct TensorSource {
  JsonReader& reader;
  Pool& pool;
  DecodeBudget& budget;
  std::string_view input;  // for messages
  DType dtype;
  FloatOverflow overflow;
  bool base64 = false;  // whether BYTES elements may also be {"b64": "..."}
};

// Reads the array at the cursor, which holds the elements of a tensor of the declared shape (valid,
// `elements` in all): nested exactly like it, or flat in row-major order. The declared shape alone
// never makes it allocate more than the text could fill.
bool read_declared_tensor(const TensorSource& source, const Shape& declared, std::size_t elements,
                          InputTensor& out);

// Reads the scalar or nested array at the cursor and infers its shape from the nesting of first
// elements; a ragged array is an error.
bool read_inferred_tensor(const TensorSource& source, InputTensor& out);

// A tensor whose rows are scattered over the text (one object per instance).
class ScatteredTensor {
 public:
  virtual ~ScatteredTensor() = default;
  // Reads the row at the cursor: a scalar or a nested array, of the same shape every time.
  virtual bool append() = 0;
  // The tensor of all rows, with their number as its first dimension.
  virtual bool finish(InputTensor& out) = 0;
};
// `source.reader` and `source.budget` must outlive it.
std::unique_ptr<ScatteredTensor> make_scattered_tensor(const TensorSource& source);

}  // namespace servolley::codec
