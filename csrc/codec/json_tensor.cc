#include "codec/json_tensor.h"

#include "codec/json_elements.h"
#include "codec/messages.h"

namespace servolley::codec {
namespace {

constexpr std::size_t kUnknown = static_cast<std::size_t>(-1);

// Reads nested arrays of one rank and one shape, which are either given or learned from the first
// elements. Recursion is as deep as the tensor's rank at most.
template <class Elements>
class NestedReader {
 public:
  explicit NestedReader(const TensorSource& source) : elements_(source) {}

  bool read_declared(const Shape& declared, std::size_t elements, InputTensor& out) {
    // Two characters per element at least; BYTES take three.
    if (elements > reader().left() / 2 + 1) return fail_count(elements, "fewer");
    if (!elements_.begin_declared(elements)) return false;
    if (!reader().enter_array()) return false;
    const bool nested = declared.rank() > 1 && reader().peek() == JsonKind::kArray;
    if (nested) {
      rank_ = declared.rank();
      dims_ = declared;
      if (!array(0)) return false;
    } else {
      std::size_t count = 0;
      if (!elements_.row(count)) return false;
      if (count != elements) return fail_count(elements, std::to_string(count));
    }
    return elements_.finish(declared, out);
  }

  bool begin_inferred(std::size_t text_bytes) { return elements_.begin_inferred(text_bytes); }

  // Reads a scalar or an array at the cursor, of the shape that the first one had.
  bool read_value(std::size_t most_dims) {
    most_dims_ = most_dims;
    const JsonKind kind = reader().peek();
    if (rank_ == kUnknown && kind != JsonKind::kArray) rank_ = 0;
    if (rank_ == 0) return elements_.one();
    if (kind != JsonKind::kArray) return fail_element(elements_.source(), "an array");
    return reader().enter_array() && array(0);
  }

  bool finish(const std::size_t* rows, InputTensor& out) {
    Shape shape;
    if (rows) shape.push_back(static_cast<std::int64_t>(*rows));
    for (std::size_t i = 0; i < rank_; ++i) shape.push_back(dims_[i]);
    return elements_.finish(shape, out);
  }

 private:
  JsonReader& reader() const { return elements_.source().reader; }

  bool fail_count(std::size_t expected, std::string_view found) {
    return reader().fail(invalid_argument(
        message("unexpected number of elements for input ", quoted(elements_.source().input),
                ": its shape holds ", std::to_string(expected), ", its data has ", found)));
  }

  // The cursor is behind the '[' of an array at `level`.
  bool array(std::size_t level) {
    if (rank_ == kUnknown) {
      if (reader().peek() != JsonKind::kArray) {
        rank_ = level + 1;
      } else if (level + 1 >= most_dims_) {
        return reader().fail(
            invalid_argument(message("input ", quoted(elements_.source().input), ": more than ",
                                     std::to_string(kMaxRank), " dimensions")));
      }
      dims_.push_back(-1);
    }
    std::size_t count = 0;
    if (level + 1 == rank_) {
      if (!elements_.row(count)) return false;
    } else if (!arrays(level, count)) {
      return false;
    }
    std::int64_t& dim = dims_[level];
    if (dim == -1) dim = static_cast<std::int64_t>(count);
    if (dim == static_cast<std::int64_t>(count)) return true;
    return fail_length(elements_.source(), count, static_cast<std::size_t>(dim));
  }

  // The elements of an array at `level` that are arrays themselves.
  bool arrays(std::size_t level, std::size_t& count) {
    bool first = true;
    while (reader().next_element(first)) {
      // Behind the first row at the latest, its length is known.
      if (level + 2 == rank_ && dims_.rank() == rank_ && dims_[level + 1] != -1) {
        return elements_.rows(static_cast<std::size_t>(dims_[level + 1]), count);
      }
      if (*reader().at() != '[') return fail_element(elements_.source(), "an array");
      reader().move_to(reader().at() + 1);
      if (!array(level + 1)) return false;
      ++count;
    }
    return !reader().failed();
  }

  Elements elements_;
  std::size_t rank_ = kUnknown;
  std::size_t most_dims_ = kMaxRank;
  Shape dims_;
};

template <class Elements>
class Scattered final : public ScatteredTensor {
 public:
  explicit Scattered(const TensorSource& source) : nested_(source) {}

  bool append() override {
    // Little to begin with: there may be many inputs, and few of them large.
    if (rows_ == 0 && !nested_.begin_inferred(kFirstText)) return false;
    ++rows_;
    return nested_.read_value(kMaxRank - 1);
  }
  bool finish(InputTensor& out) override { return nested_.finish(&rows_, out); }

 private:
  static constexpr std::size_t kFirstText = 512;
  NestedReader<Elements> nested_;
  std::size_t rows_ = 0;
};

// Calls `use` with a null pointer to the element reader of a datatype.
template <class Use>
auto with_elements(DType dtype, Use use) {
  switch (dtype) {
    case DType::kBool:
      return use(static_cast<FixedElements<Bool>*>(nullptr));
    case DType::kUint8:
      return use(static_cast<FixedElements<std::uint8_t>*>(nullptr));
    case DType::kUint16:
      return use(static_cast<FixedElements<std::uint16_t>*>(nullptr));
    case DType::kUint32:
      return use(static_cast<FixedElements<std::uint32_t>*>(nullptr));
    case DType::kUint64:
      return use(static_cast<FixedElements<std::uint64_t>*>(nullptr));
    case DType::kInt8:
      return use(static_cast<FixedElements<std::int8_t>*>(nullptr));
    case DType::kInt16:
      return use(static_cast<FixedElements<std::int16_t>*>(nullptr));
    case DType::kInt32:
      return use(static_cast<FixedElements<std::int32_t>*>(nullptr));
    case DType::kInt64:
      return use(static_cast<FixedElements<std::int64_t>*>(nullptr));
    case DType::kFp16:
      return use(static_cast<FixedElements<Fp16>*>(nullptr));
    case DType::kBf16:
      return use(static_cast<FixedElements<Bf16>*>(nullptr));
    case DType::kFp32:
      return use(static_cast<FixedElements<float>*>(nullptr));
    case DType::kFp64:
      return use(static_cast<FixedElements<double>*>(nullptr));
    case DType::kBytes:
      break;
  }
  return use(static_cast<BytesElements*>(nullptr));
}

}  // namespace

bool read_declared_tensor(const TensorSource& source, const Shape& declared, std::size_t elements,
                          InputTensor& out) {
  return with_elements(source.dtype, [&]<class Elements>(Elements*) {
    return NestedReader<Elements>(source).read_declared(declared, elements, out);
  });
}

bool read_inferred_tensor(const TensorSource& source, InputTensor& out) {
  return with_elements(source.dtype, [&]<class Elements>(Elements*) {
    NestedReader<Elements> nested(source);
    return nested.begin_inferred(source.reader.left()) && nested.read_value(kMaxRank) &&
           nested.finish(nullptr, out);
  });
}

std::unique_ptr<ScatteredTensor> make_scattered_tensor(const TensorSource& source) {
  return with_elements(source.dtype,
                       [&]<class Elements>(Elements*) -> std::unique_ptr<ScatteredTensor> {
                         return std::make_unique<Scattered<Elements>>(source);
                       });
}

}  // namespace servolley::codec
