#include <charconv>

#include "codec/bytes_tensor.h"
#include "codec/inline_list.h"
#include "codec/messages.h"
#include "codec/proto_writer.h"
#include "codec/tf_tensor.h"
#include "codec/tfs_proto.h"

namespace servolley::codec {
namespace {

using proto::field_size;
using proto::MessageWriter;
using proto::text_size;
using proto::varint_field_size;
using proto::varint_size;

template <class T>
std::uint64_t widened(const std::byte* data, std::size_t i) {
  T value;
  std::memcpy(&value, data + i * sizeof value, sizeof value);
  // Negative numbers of any width are sent with 64 bits.
  if constexpr (std::is_signed_v<T>) {
    return static_cast<std::uint64_t>(static_cast<std::int64_t>(value));
  }
  return value;
}

// Calls `use` with every element of a tensor that is sent as varints.
template <class Use>
void each_varint(const TensorView& view, Use use) {
  const auto all = [&]<class T>(T) {
    const std::size_t count = view.bytes / sizeof(T);
    for (std::size_t i = 0; i < count; ++i) use(widened<T>(view.data, i));
  };
  switch (view.dtype) {
    case DType::kBool:
      for (std::size_t i = 0; i < view.bytes; ++i) use(view.data[i] != std::byte{0} ? 1u : 0u);
      break;
    case DType::kUint8:
      return all(std::uint8_t{});
    case DType::kUint16:
    case DType::kFp16:
    case DType::kBf16:
      return all(std::uint16_t{});
    case DType::kUint32:
      return all(std::uint32_t{});
    case DType::kUint64:
      return all(std::uint64_t{});
    case DType::kInt8:
      return all(std::int8_t{});
    case DType::kInt16:
      return all(std::int16_t{});
    case DType::kInt32:
      return all(std::int32_t{});
    case DType::kInt64:
      return all(std::int64_t{});
    case DType::kFp32:
    case DType::kFp64:
    case DType::kBytes:
      break;
  }
}

// Calls `use` with every element of a BYTES tensor; false if its bytes are not whole elements.
template <class Use>
bool each_string(const TensorView& view, Use use) {
  std::span<const std::byte> rest = view.span();
  std::string_view element;
  while (!rest.empty()) {
    if (!take_bytes_element(rest, element)) return false;
    use(element);
  }
  return true;
}

// How an output's values are sent.
enum class Form : std::uint8_t {
  kDense,          // as they lie: tensor_content, packed floats
  kVarints,        // packed
  kStrings,        // one string_val each
  kStringContent,  // tensor_content: all lengths, then all bytes
};

struct Plan {
  Form form = Form::kDense;
  std::uint32_t number = 0;  // of the field
  std::size_t values = 0;    // bytes in it; for kStrings with what leads each in
  std::size_t tensor = 0;    // bytes of the TensorProto
};

class Encoder {
 public:
  Encoder(const InferRequest& request, std::span<const OutputView> outputs,
          const EncodeContext& context, bool tensor_content, Payload& payload)
      : request_(request),
        outputs_(outputs),
        context_(context),
        tensor_content_(tensor_content),
        payload_(payload) {}

  Status run() {
    const char* const end = context_.version.data() + context_.version.size();
    std::int64_t version = 0;
    const auto parsed = std::from_chars(context_.version.data(), end, version);
    if (parsed.ec != std::errc() || parsed.ptr != end) {
      return internal_error(message("version '", context_.version, "' is not a number"));
    }
    const auto version_bits = static_cast<std::uint64_t>(version);
    const std::size_t version_size = varint_field_size(1, version_bits);
    const std::size_t spec_size = text_size(1, context_.model) + field_size(2, version_size) +
                                  text_size(3, tf::kDefaultSignature);

    std::size_t bytes = field_size(2, spec_size);
    for (const RequestedOutput& requested : request_.outputs) {
      Plan plan;
      SERVOLLEY_TRY(make_plan(requested, plan));
      bytes += field_size(1, entry_size(requested, plan));
      if (is_view(plan)) bytes -= plan.values;
      plans_.push_back(plan);
    }

    MessageWriter writer(payload_);
    SERVOLLEY_TRY(writer.begin(context_.pool, bytes));
    for (std::size_t i = 0; i < request_.outputs.size(); ++i) write_entry(i, writer);
    writer.field(2, spec_size);
    writer.text(1, context_.model);
    writer.field(2, version_size);
    writer.varint_field(1, version_bits);
    writer.text(3, tf::kDefaultSignature);
    writer.finish();
    return {};
  }

 private:
  const std::string& name(const RequestedOutput& requested) const {
    return context_.signature.outputs[requested.index].name;
  }

  static bool is_view(const Plan& plan) {
    return plan.form == Form::kDense && plan.values > proto::kViewBytes;
  }

  static std::size_t dim_size(std::int64_t dim) {
    return varint_field_size(1, static_cast<std::uint64_t>(dim));
  }
  static std::size_t shape_size(const Shape& shape) {
    std::size_t bytes = 0;
    for (const std::int64_t dim : shape.dims()) bytes += field_size(2, dim_size(dim));
    return bytes;
  }

  Status make_plan(const RequestedOutput& requested, Plan& plan) const {
    const TensorView& view = outputs_[requested.index].view;
    const proto::ValueField& field = tf::type_of(view.dtype).field;
    plan.number = tensor_content_ ? tf::kTensorContent : field.number;
    if (view.dtype == DType::kBytes) {
      plan.form = tensor_content_ ? Form::kStringContent : Form::kStrings;
      const bool whole = each_string(view, [&](std::string_view element) {
        plan.values += tensor_content_ ? varint_size(element.size()) + element.size()
                                       : field_size(plan.number, element.size());
      });
      if (!whole) {
        return internal_error(
            message("output ", quoted(name(requested)), ": its bytes end inside an element"));
      }
    } else if (tensor_content_ || field.wire != proto::Wire::varint) {
      plan.form = Form::kDense;
      plan.values = view.bytes;
    } else {
      plan.form = Form::kVarints;
      each_varint(view, [&](std::uint64_t value) { plan.values += varint_size(value); });
    }
    const auto datatype = static_cast<std::uint64_t>(tf::type_of(view.dtype).number);
    plan.tensor = varint_field_size(1, datatype) + field_size(2, shape_size(view.shape));
    if (plan.form == Form::kStrings) {
      plan.tensor += plan.values;
    } else if (plan.values > 0) {
      plan.tensor += field_size(plan.number, plan.values);
    }
    return {};
  }

  std::size_t entry_size(const RequestedOutput& requested, const Plan& plan) const {
    return text_size(1, name(requested)) + field_size(2, plan.tensor);
  }

  void write_entry(std::size_t i, MessageWriter& writer) const {
    const RequestedOutput& requested = request_.outputs[i];
    const OutputView& output = outputs_[requested.index];
    const Plan& plan = plans_[i];
    writer.field(1, entry_size(requested, plan));
    writer.text(1, name(requested));
    writer.field(2, plan.tensor);
    writer.varint_field(1, static_cast<std::uint64_t>(tf::type_of(output.view.dtype).number));
    writer.field(2, shape_size(output.view.shape));
    for (const std::int64_t dim : output.view.shape.dims()) {
      writer.field(2, dim_size(dim));
      writer.varint_field(1, static_cast<std::uint64_t>(dim));
    }
    if (plan.values > 0) write_values(output, plan, writer);
  }

  static void write_values(const OutputView& output, const Plan& plan, MessageWriter& writer) {
    const TensorView& view = output.view;
    if (plan.form != Form::kStrings) writer.field(plan.number, plan.values);
    switch (plan.form) {
      case Form::kDense:
        if (is_view(plan)) {
          writer.view(output.owner ? output.owner->share() : Buffer(), view.data, view.bytes);
        } else {
          writer.raw(view.data, view.bytes);
        }
        break;
      case Form::kVarints:
        each_varint(view, [&](std::uint64_t value) { writer.varint(value); });
        break;
      case Form::kStrings:
        each_string(view, [&](std::string_view element) {
          writer.field(plan.number, element.size());
          writer.raw(element.data(), element.size());
        });
        break;
      case Form::kStringContent:
        each_string(view, [&](std::string_view element) { writer.varint(element.size()); });
        each_string(view,
                    [&](std::string_view element) { writer.raw(element.data(), element.size()); });
        break;
    }
  }

  const InferRequest& request_;
  const std::span<const OutputView> outputs_;
  const EncodeContext& context_;
  const bool tensor_content_;
  Payload& payload_;
  InlineList<Plan, 8> plans_;
};

}  // namespace

Status encode_tfs_proto(const InferRequest& request, std::span<const OutputView> outputs,
                        const EncodeContext& context, bool tensor_content, Payload& payload) {
  return Encoder(request, outputs, context, tensor_content, payload).run();
}

}  // namespace servolley::codec
