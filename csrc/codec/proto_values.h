#pragma once

#include <array>
#include <optional>
#include <span>

#include "codec/decode_budget.h"
#include "codec/infer.h"
#include "codec/proto_reader.h"

// Tensors in typed repeated fields: what the contents of a ModelInferRequest and the *_val fields
// of a TensorProto have in common. First every field is counted, then memory is taken, then the
// values are read into it.
namespace servolley::codec::proto {

struct ValueField {
  std::uint32_t number = 0;
  // Of one value outside of a packed field; length_delimited = bytes, which are never packed.
  Wire wire = Wire::varint;
  std::string_view name;
};

struct ValueTally {
  std::size_t values = 0;
  std::size_t bytes = 0;              // of all values as packed BYTES elements
  std::size_t last_bytes = 0;         // of the last one
  std::size_t occurrences = 0;        // of the field
  std::span<const std::byte> packed;  // the last occurrence, if it is packed
};

// Counts the values of each of up to kMost fields.
class FieldTallies {
 public:
  static constexpr std::size_t kMost = 9;
  explicit FieldTallies(std::span<const ValueField> fields) : fields_(fields) {}

  // Counts what the reader is at and moves on. False if it is none of the fields.
  bool add(Reader& reader);
  const ValueTally& of(std::uint32_t number) const;
  // Some field with values, other than that one.
  const ValueField* besides(std::uint32_t number) const;

 private:
  std::span<const ValueField> fields_;
  std::array<ValueTally, kMost> tallies_{};
};

// Where the values of one input go.
struct ValueTarget {
  DType dtype = DType::kFp32;
  std::size_t elements = 0;
  ValueField field;
  std::string_view input;  // for messages
};

// Reads the values of one field, counted before, into the elements of a tensor.
class ValueWriter {
 public:
  explicit ValueWriter(const ValueTarget& target) : target_(target) {}

  // Takes memory for all elements, of which `tally` has at most as many. Fewer: the last one
  // repeats, none: zeros and empty BYTES.
  Status begin(const ValueTally& tally, DecodeBudget& budget, Pool& pool);
  // Reads the occurrence of the field that the reader is at.
  Status add(Reader& reader);
  // Hands the tensor over.
  void finish(const Shape& shape, InputTensor& out);

 private:
  template <class T>
  bool put(std::uint64_t varint);
  template <class T>
  Status add_varints(Reader& reader);
  void add_raw(std::span<const std::byte> bytes);

  ValueTarget target_;
  ValueTally tally_;
  Buffer buffer_;
  std::byte* at_ = nullptr;
  std::size_t bytes_ = 0;
};

// The number of a field that fills the tensor as it lies there: fixed-size values in one packed
// occurrence, as many as the tensor has elements.
inline bool lies_dense(const ValueTarget& target, const ValueTally& tally) {
  return target.field.wire != Wire::varint && target.field.wire != Wire::length_delimited &&
         tally.occurrences == 1 && tally.packed.data() && tally.values == target.elements;
}

}  // namespace servolley::codec::proto
