#include <optional>
#include <utility>

#include "codec/proto_values.h"
#include "codec/tf_tensor.h"
#include "codec/tfs_proto.h"

namespace servolley::codec {
namespace {

using proto::FieldTallies;
using proto::Reader;
using proto::take_text;

// google.protobuf.Int64Value.
std::int64_t read_int64_value(Reader reader, std::int64_t value) {
  while (reader.next()) {
    if (reader.tag_and_type() == proto::varint_field(1)) {
      value = reader.get_int64();
    } else {
      reader.skip();
    }
  }
  return value;
}

Status read_model_spec(Reader reader, TfsProtoHead& head) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case proto::bytes_field(1):
        SERVOLLEY_TRY(take_text(reader, "model_spec.name", head.model));
        break;
      case proto::bytes_field(2):  // with the label the two choices of one field
        head.version = read_int64_value(reader.get_message(), head.version.value_or(0));
        head.label = {};
        break;
      case proto::bytes_field(3):
        SERVOLLEY_TRY(take_text(reader, "model_spec.signature_name", head.signature));
        break;
      case proto::bytes_field(4):
        SERVOLLEY_TRY(take_text(reader, "model_spec.version_label", head.label));
        head.version.reset();
        break;
      default:
        reader.skip();
    }
  }
  return {};
}

// What a TensorProto says besides its values.
struct TensorHead {
  std::int32_t datatype = 0;
  Shape shape;
  std::span<const std::byte> content;
};

class Decoder {
 public:
  Decoder(const DecodeContext& context, InferRequest& out)
      : context_(context), budget_(context.decoded_bytes_limit), out_(out) {}

  Status run(Reader reader) {
    out_.clear();
    out_.inputs.resize(signature().inputs.size());
    TfsProtoHead head;
    Unexpected unexpected;
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case proto::bytes_field(1):
          SERVOLLEY_TRY(read_model_spec(reader.get_message(), head));
          break;
        case proto::bytes_field(2):
          SERVOLLEY_TRY(input(reader.get_message(), unexpected));
          break;
        case proto::bytes_field(3):
          SERVOLLEY_TRY(output(reader));
          break;
        default:
          reader.skip();
      }
    }
    if (!head.signature.empty() && head.signature != tf::kDefaultSignature) {
      return {Code::kFailedPrecondition, message("Serving signature name: ", quoted(head.signature),
                                                 " not found in the signatures", for_model())};
    }
    SERVOLLEY_TRY(check_input_set(unexpected));
    for (std::uint32_t i = 0; i < out_.inputs.size(); ++i) SERVOLLEY_TRY(read_tensor(i));
    if (!out_.outputs.empty()) return {};
    for (std::uint32_t i = 0; i < signature().outputs.size(); ++i) add_output(i);
    return {};
  }

 private:
  // Inputs that the model does not have. Only the first can be named: there may be a million.
  struct Unexpected {
    std::size_t count = 0;
    std::string_view first;
  };

  const Signature& signature() const { return context_.signature; }
  std::string for_model() const { return message(" of model '", context_.model, "'"); }
  Status bad_input(std::uint32_t index, std::string_view what) const {
    return invalid_argument(
        message("input ", quoted(signature().inputs[index].name), for_model(), ": ", what));
  }

  // An entry of map<string, TensorProto> inputs. Only the last one of a key counts, so reading
  // waits: until then the view is that of the TensorProto's own bytes.
  Status input(Reader entry, Unexpected& unexpected) {
    std::string_view alias;
    // Also without a value the input is there, as an empty TensorProto.
    const auto own = entry.data();
    std::string_view tensor = std::string_view(own.data(), own.size()).substr(0, 0);
    while (entry.next()) {
      switch (entry.tag_and_type()) {
        case proto::bytes_field(1):
          SERVOLLEY_TRY(take_text(entry, "inputs", alias));
          break;
        case proto::bytes_field(2):
          tensor = proto::take_bytes(entry);
          break;
        default:
          entry.skip();
      }
    }
    const auto index = signature().input_index(alias);
    if (!index) {
      if (unexpected.count++ == 0) unexpected.first = alias;
      return {};
    }
    TensorView& view = out_.inputs[*index].view;
    view.data = reinterpret_cast<const std::byte*>(tensor.data());
    view.bytes = tensor.size();
    return {};
  }

  Status check_input_set(const Unexpected& unexpected) const {
    std::size_t missing = 0;
    std::string_view first_missing;
    for (std::size_t i = 0; i < out_.inputs.size(); ++i) {
      if (out_.inputs[i].view.data) continue;
      if (missing++ == 0) first_missing = signature().inputs[i].name;
    }
    if (missing == 0 && unexpected.count == 0) return {};
    const auto names = [](std::size_t count, std::string_view first) {
      if (count == 0) return std::string("none");
      return count == 1 ? quoted(first)
                        : message(quoted(first), " and ", std::to_string(count - 1), " more");
    };
    return invalid_argument(message("the inputs do not match the signature", for_model(),
                                    ": sent extra: ", names(unexpected.count, unexpected.first),
                                    "; missing but required: ", names(missing, first_missing)));
  }

  void add_output(std::uint32_t index) {
    out_.outputs.push_back({.index = index, .form = OutputForm::kBinary, .classification = 0});
  }

  Status output(Reader& reader) {
    std::string_view alias;
    SERVOLLEY_TRY(take_text(reader, "output_filter", alias));
    const auto index = signature().output_index(alias);
    if (!index) {
      return invalid_argument(message("output tensor alias not found in the signature", for_model(),
                                      ": ", quoted(alias)));
    }
    for (const RequestedOutput& other : out_.outputs) {
      if (other.index == *index) {
        return invalid_argument(message("duplicate output tensor alias: ", quoted(alias)));
      }
    }
    add_output(*index);
    return {};
  }

  // --- tensors ---

  Status read_tensor(std::uint32_t index) {
    InputTensor& tensor = out_.inputs[index];
    const Reader reader = proto::reader_of(tensor.view.span());
    const TensorSpec& spec = signature().inputs[index];
    TensorHead head;
    FieldTallies tallies(tf::kValueFields);
    SERVOLLEY_TRY(read_head(index, reader, head, tallies));

    const auto dtype = tf::dtype_from_number(head.datatype);
    if (dtype != spec.dtype) {
      return bad_input(index, message("expected ", tf_name(spec.dtype), ", got ",
                                      dtype ? std::string(tf_name(*dtype))
                                            : "datatype " + std::to_string(head.datatype)));
    }
    const auto elements = head.shape.element_count();
    if (!elements || !head.shape.byte_count(*dtype)) {
      return bad_input(
          index, message("the size of shape ", head.shape.to_string(), " does not fit 64 bits"));
    }
    const auto& field = tf::type_of(*dtype).field;
    const proto::ValueTally& tally = tallies.of(field.number);
    // TensorFlow ignores such values and reads zeros; that hides a client's mistake.
    if (const proto::ValueField* const other = tallies.besides(field.number)) {
      return bad_input(index, message(tf_name(*dtype), " values belong into ", field.name,
                                      ", found some in ", other->name));
    }
    const proto::ValueTarget target{.dtype = *dtype,
                                    .elements = static_cast<std::size_t>(*elements),
                                    .field = field,
                                    .input = spec.name};
    if (!head.content.empty()) {
      if (tally.values > 0) {
        return bad_input(index, message("both tensor_content and ", field.name));
      }
      return read_content(index, target, head, tensor);
    }
    if (tally.values > target.elements) {
      return bad_input(index, message("shape ", head.shape.to_string(), " takes ",
                                      std::to_string(target.elements), " elements, ", field.name,
                                      " has ", std::to_string(tally.values)));
    }
    if (proto::lies_dense(target, tally)) {
      tensor.view = {*dtype, head.shape, tally.packed.data(), tally.packed.size()};
      return {};
    }
    return read_values(reader, target, tally, head.shape, tensor);
  }

  Status read_head(std::uint32_t index, Reader reader, TensorHead& head,
                   FieldTallies& tallies) const {
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case proto::varint_field(1):
          head.datatype = reader.get_int32();
          break;
        case proto::bytes_field(2):
          SERVOLLEY_TRY(read_shape(index, reader.get_message(), head.shape));
          break;
        case proto::bytes_field(tf::kTensorContent):
          head.content = proto::take_span(reader);
          break;
        default:
          if (!tallies.add(reader)) reader.skip();
      }
    }
    return {};
  }

  Status read_shape(std::uint32_t index, Reader reader, Shape& shape) const {
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case proto::bytes_field(2): {
          std::int64_t size = 0;
          SERVOLLEY_TRY(read_dim(reader.get_message(), size));
          if (size < 0) {
            return bad_input(
                index, message("a dimension must not be negative, got ", std::to_string(size)));
          }
          if (shape.full()) {
            return bad_input(index, message("more than ", std::to_string(kMaxRank), " dimensions"));
          }
          shape.push_back(size);
          break;
        }
        case proto::varint_field(3):
          if (proto::take_bool(reader)) return bad_input(index, "its shape has an unknown rank");
          break;
        default:
          reader.skip();
      }
    }
    return {};
  }

  static Status read_dim(Reader reader, std::int64_t& size) {
    std::string_view name;
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case proto::varint_field(1):
          size = reader.get_int64();
          break;
        case proto::bytes_field(2):
          SERVOLLEY_TRY(take_text(reader, "dim.name", name));
          break;
        default:
          reader.skip();
      }
    }
    return {};
  }

  Status read_values(Reader reader, const proto::ValueTarget& target,
                     const proto::ValueTally& tally, const Shape& shape, InputTensor& tensor) {
    proto::ValueWriter writer(target);
    SERVOLLEY_TRY(writer.begin(tally, budget_, context_.pool));
    while (reader.next()) {
      if (reader.tag() == target.field.number &&
          (reader.wire_type() == target.field.wire ||
           reader.wire_type() == proto::Wire::length_delimited)) {
        SERVOLLEY_TRY(writer.add(reader));
      } else {
        reader.skip();
      }
    }
    writer.finish(shape, tensor);
    return {};
  }

  Status read_content(std::uint32_t index, const proto::ValueTarget& target, const TensorHead& head,
                      InputTensor& tensor) {
    if (target.dtype == DType::kBytes) return read_strings(index, target, head, tensor);
    const std::size_t expected = target.elements * element_size(target.dtype);
    if (head.content.size() != expected) {
      return bad_input(
          index, message("shape ", head.shape.to_string(), " takes ", std::to_string(expected),
                         " bytes, tensor_content has ", std::to_string(head.content.size())));
    }
    tensor.view = {target.dtype, head.shape, head.content.data(), head.content.size()};
    return {};
  }

  // Strings in tensor_content: the lengths of all as varints, then the bytes of all.
  Status read_strings(std::uint32_t index, const proto::ValueTarget& target, const TensorHead& head,
                      InputTensor& tensor) {
    const auto wrong_size = [&] {
      return bad_input(index, message("tensor_content does not hold ",
                                      std::to_string(target.elements), " strings"));
    };
    const auto* const begin = reinterpret_cast<const char*>(head.content.data());
    const char* const end = begin + head.content.size();
    // A length takes at least one byte, so that a false element count ends here.
    if (target.elements > head.content.size()) return wrong_size();
    const char* text = begin;
    std::size_t text_bytes = 0;
    for (std::size_t i = 0; i < target.elements; ++i) {
      const std::uint64_t length = protozero::decode_varint(&text, end);
      if (length > head.content.size() - text_bytes) return wrong_size();
      text_bytes += static_cast<std::size_t>(length);
    }
    if (text_bytes != static_cast<std::size_t>(end - text)) return wrong_size();
    const std::size_t bytes = text_bytes + target.elements * sizeof(std::uint32_t);
    if (text_bytes > 0xFFFFFFFFu || !budget_.take(bytes)) return budget_.exceeded();
    auto memory = context_.pool.allocate(bytes);
    if (!memory) return std::move(memory).error();
    std::byte* at = memory->data();
    const char* lengths = begin;
    for (std::size_t i = 0; i < target.elements; ++i) {
      const auto length = static_cast<std::uint32_t>(protozero::decode_varint(&lengths, end));
      std::memcpy(at, &length, sizeof length);
      std::memcpy(at + sizeof length, text, length);
      at += sizeof length + length;
      text += length;
    }
    tensor.view = {target.dtype, head.shape, memory->data(), bytes};
    tensor.owner = std::move(*memory);
    return {};
  }

  const DecodeContext& context_;
  DecodeBudget budget_;
  InferRequest& out_;
};

}  // namespace

Result<TfsProtoHead> read_tfs_head(std::span<const std::byte> message) {
  TfsProtoHead head;
  bool found = false;
  Status status = proto::well_formed([&]() -> Status {
    Reader reader = proto::reader_of(message);
    while (reader.next()) {
      if (reader.tag_and_type() == proto::bytes_field(1)) {
        found = true;
        SERVOLLEY_TRY(read_model_spec(reader.get_message(), head));
      } else {
        reader.skip();
      }
    }
    return {};
  });
  if (!status.ok()) return status;
  if (!found) return invalid_argument("Missing ModelSpec");
  if (head.model.empty()) return invalid_argument("ModelSpec has no name specified.");
  return head;
}

Status decode_tfs_proto(std::span<const std::byte> message, const DecodeContext& context,
                        InferRequest& out) {
  return proto::well_formed([&] { return Decoder(context, out).run(proto::reader_of(message)); });
}

}  // namespace servolley::codec
