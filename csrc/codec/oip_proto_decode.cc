#include <array>
#include <optional>
#include <utility>

#include "codec/inline_list.h"
#include "codec/oip_proto.h"
#include "codec/oip_proto_parameters.h"
#include "codec/oip_rules.h"
#include "codec/proto_values.h"

namespace servolley::codec {
namespace {

using oip::ProtoParameter;
using proto::FieldTallies;
using proto::Reader;
using proto::ValueField;
using proto::Wire;

// inference.InferTensorContents.
constexpr std::array<ValueField, 8> kContents{{{1, Wire::varint, "bool_contents"},
                                               {2, Wire::varint, "int_contents"},
                                               {3, Wire::varint, "int64_contents"},
                                               {4, Wire::varint, "uint_contents"},
                                               {5, Wire::varint, "uint64_contents"},
                                               {6, Wire::fixed32, "fp32_contents"},
                                               {7, Wire::fixed64, "fp64_contents"},
                                               {8, Wire::length_delimited, "bytes_contents"}}};

// The field for a datatype; nothing for those that come only as raw bytes.
const ValueField* contents_field(DType dtype) {
  switch (dtype) {
    case DType::kBool:
      return &kContents[0];
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
      return &kContents[1];
    case DType::kInt64:
      return &kContents[2];
    case DType::kUint8:
    case DType::kUint16:
    case DType::kUint32:
      return &kContents[3];
    case DType::kUint64:
      return &kContents[4];
    case DType::kFp32:
      return &kContents[5];
    case DType::kFp64:
      return &kContents[6];
    case DType::kBytes:
      return &kContents[7];
    case DType::kFp16:
    case DType::kBf16:
      return nullptr;
  }
  return nullptr;
}

class Decoder {
 public:
  Decoder(const DecodeContext& context, InferRequest& out)
      : context_(context), budget_(context.decoded_bytes_limit), out_(out) {}

  Status run(Reader reader) {
    out_.clear();
    out_.inputs.resize(signature().inputs.size());
    std::optional<Reader> first_raw;
    std::size_t raw_entries = 0;
    while (reader.next()) {
      if (reader.tag_and_type() == proto::bytes_field(7)) {
        if (raw_entries++ == 0) first_raw = reader;
        reader.skip();
      } else {
        SERVOLLEY_TRY(field(reader));
      }
    }
    if (first_raw) SERVOLLEY_TRY(take_raw(*first_raw, raw_entries));
    for (std::size_t i = 0; i < order_.size(); ++i) {
      if (out_.inputs[order_[i]].given()) continue;
      return refuse(message("no data for ", input_name(order_[i]), for_model(),
                            ": neither 'contents' nor an entry of 'raw_input_contents'"));
    }
    SERVOLLEY_TRY(oip::check_complete(context_, out_));
    SERVOLLEY_TRY(oip::check_rows(context_, out_));
    if (!out_.outputs.empty()) return {};
    for (std::uint32_t i = 0; i < signature().outputs.size(); ++i) {
      out_.outputs.push_back({.index = i, .form = OutputForm::kBinary, .classification = 0});
    }
    return {};
  }

 private:
  const Signature& signature() const { return context_.signature; }
  Status refuse(std::string text) const { return invalid_argument(std::move(text)); }
  std::string for_model() const { return oip::for_model(context_.model); }
  std::string input_name(std::uint32_t index) const {
    return "input " + quoted(signature().inputs[index].name);
  }

  Status field(Reader& reader) {
    std::string_view text;
    switch (reader.tag_and_type()) {
      case proto::bytes_field(1):
        return proto::take_text(reader, "model_name", text);
      case proto::bytes_field(2):
        return proto::take_text(reader, "model_version", text);
      case proto::bytes_field(3):
        SERVOLLEY_TRY(proto::take_text(reader, "id", text));
        out_.id = text;
        return {};
      case proto::bytes_field(4): {
        ProtoParameter parameter;
        SERVOLLEY_TRY(oip::read_parameter(reader.get_message(), parameter));
        return oip::apply_parameter(parameter, context_, out_);
      }
      case proto::bytes_field(5):
        return input(reader.get_message());
      case proto::bytes_field(6):
        return output(reader.get_message());
      default:
        reader.skip();
        return {};
    }
  }

  // --- inputs ---

  struct Input {
    std::string_view name;
    std::string_view datatype;
    Shape shape;
    bool has_contents = false;
    oip::SharedParameters shared;
  };

  // Every input is known and no name comes twice, so there are never more than the model has.
  Status input(const Reader& message_reader) {
    Input input;
    SERVOLLEY_TRY(read_input(message_reader, input));
    if (input.name.empty()) return refuse("an element of 'inputs' has no 'name'" + for_model());
    const auto index = oip::find_input(context_, input.name);
    if (!index) return index.error();
    if (order_.contains(*index)) return oip::input_given_twice(context_, *index);
    order_.push_back(*index);

    const auto dtype = dtype_from_oip(input.datatype);
    if (!dtype) {
      return refuse(input.datatype.empty()
                        ? message("no 'datatype' for ", input_name(*index), for_model())
                        : message("unknown datatype ", quoted(input.datatype), " of ",
                                  input_name(*index), for_model()));
    }
    const auto elements = oip::check_input(context_, *index, *dtype, input.shape);
    if (!elements) return elements.error();
    out_.inputs[*index].view.dtype = *dtype;
    out_.inputs[*index].view.shape = input.shape;
    if (input.shared.given) {
      if (input.has_contents) {
        return refuse(message(input_name(*index), for_model(),
                              " must not have both 'contents' and 'shared_memory_region'"));
      }
      ++shared_inputs_;
      return oip::outline_shared_input(context_, *index, input.shape, *elements, input.shared,
                                       out_);
    }
    if (!input.has_contents) return {};
    has_contents_ = true;
    return read_contents(message_reader, *index, *elements);
  }

  Status read_input(Reader reader, Input& input) const {
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case proto::bytes_field(1):
          SERVOLLEY_TRY(proto::take_text(reader, "name", input.name));
          break;
        case proto::bytes_field(2):
          SERVOLLEY_TRY(proto::take_text(reader, "datatype", input.datatype));
          break;
        case proto::bytes_field(3):
          for (const std::int64_t dim : reader.get_packed_int64()) {
            SERVOLLEY_TRY(add_dimension(dim, input));
          }
          break;
        case proto::varint_field(3):
          SERVOLLEY_TRY(add_dimension(reader.get_int64(), input));
          break;
        case proto::bytes_field(4): {
          ProtoParameter parameter;
          SERVOLLEY_TRY(oip::read_parameter(reader.get_message(), parameter));
          SERVOLLEY_TRY(oip::apply_shared_parameter(parameter, input.shared));
          break;
        }
        case proto::bytes_field(5):
          input.has_contents = true;
          reader.skip();
          break;
        default:
          reader.skip();
      }
    }
    return {};
  }

  Status add_dimension(std::int64_t dim, Input& input) const {
    const auto bad = [&](std::string_view what) {
      const std::string who = input.name.empty() ? std::string("an input without a name")
                                                 : "input " + quoted(input.name);
      return oip::bad_shape(context_, who, what);
    };
    if (dim < 0) return bad(oip::kBadDimension);
    if (input.shape.full()) return bad("more than " + std::to_string(kMaxRank) + " dimensions");
    input.shape.push_back(dim);
    return {};
  }

  // Calls `use` with the reader at every field of every 'contents' of an input.
  template <class Use>
  static Status each_content(Reader input, Use use) {
    while (input.next(5, Wire::length_delimited)) {
      Reader contents = input.get_message();
      while (contents.next()) SERVOLLEY_TRY(use(contents));
    }
    return {};
  }

  Status read_contents(const Reader& input, std::uint32_t index, std::size_t elements) {
    InputTensor& tensor = out_.inputs[index];
    const DType dtype = tensor.view.dtype;
    const ValueField* const field = contents_field(dtype);
    if (!field) {
      return refuse(message("sending ", oip_name(dtype), " data in 'contents' is not supported: ",
                            "use 'raw_input_contents' for ", input_name(index)));
    }
    FieldTallies tallies(kContents);
    SERVOLLEY_TRY(each_content(input, [&](Reader& reader) {
      if (!tallies.add(reader)) reader.skip();
      return Status();
    }));
    const proto::ValueTally& tally = tallies.of(field->number);
    if (const ValueField* const other = tallies.besides(field->number)) {
      return refuse(message("'contents' of ", input_name(index), for_model(), ": ", oip_name(dtype),
                            " data belongs into '", field->name, "' alone, found values in '",
                            other->name, "'"));
    }
    if (tally.values != elements) {
      return refuse(message("unexpected number of elements for ", input_name(index), for_model(),
                            ": shape ", tensor.view.shape.to_string(), " takes ",
                            std::to_string(elements), ", '", field->name, "' has ",
                            std::to_string(tally.values)));
    }
    const proto::ValueTarget target{.dtype = dtype,
                                    .elements = elements,
                                    .field = *field,
                                    .input = signature().inputs[index].name};
    const Shape shape = tensor.view.shape;
    if (proto::lies_dense(target, tally)) {
      tensor.view = {dtype, shape, tally.packed.data(), tally.packed.size()};
      return {};
    }
    proto::ValueWriter writer(target);
    SERVOLLEY_TRY(writer.begin(tally, budget_, context_.pool));
    SERVOLLEY_TRY(each_content(input, [&](Reader& reader) {
      if (reader.tag() == field->number &&
          (reader.wire_type() == field->wire || reader.wire_type() == Wire::length_delimited)) {
        return writer.add(reader);
      }
      reader.skip();
      return Status();
    }));
    writer.finish(shape, tensor);
    return {};
  }

  // The entries in the order of the inputs. `reader` is at the first of them.
  Status take_raw(Reader reader, std::size_t entries) {
    if (has_contents_) {
      return refuse("a request must not have both 'contents' and 'raw_input_contents'" +
                    for_model());
    }
    const std::size_t inputs = order_.size() - shared_inputs_;
    if (entries != inputs) {
      return refuse(message("unexpected number of 'raw_input_contents'", for_model(), ": ",
                            std::to_string(entries), " for ", std::to_string(inputs), " inputs"));
    }
    std::size_t next = 0;
    std::size_t taken = 0;
    do {
      if (reader.tag_and_type() != proto::bytes_field(7)) {
        reader.skip();
        continue;
      }
      // The entries are those of the inputs that are not in shared memory.
      while (out_.inputs[order_[next]].given()) ++next;
      const std::uint32_t index = order_[next++];
      ++taken;
      InputTensor& tensor = out_.inputs[index];
      const DType dtype = tensor.view.dtype;
      const Shape shape = tensor.view.shape;
      const auto data = proto::take_span(reader);
      const auto elements = static_cast<std::size_t>(shape.element_count().value_or(0));
      SERVOLLEY_TRY(oip::check_raw_data(context_, index, shape, elements, data,
                                        "its entry of 'raw_input_contents' has "));
      tensor.view = {dtype, shape, data.data(), data.size()};
    } while (taken < entries && reader.next());
    return {};
  }

  // --- outputs ---

  Status output(Reader reader) {
    std::string_view name;
    std::uint32_t classification = 0;
    oip::SharedParameters shared;
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case proto::bytes_field(1):
          SERVOLLEY_TRY(proto::take_text(reader, "name", name));
          break;
        case proto::bytes_field(2): {
          ProtoParameter parameter;
          SERVOLLEY_TRY(oip::read_parameter(reader.get_message(), parameter));
          if (parameter.key == "classification") {
            const auto count = oip::classification_count(parameter);
            if (!count) return count.error();
            classification = *count;
          } else {
            SERVOLLEY_TRY(oip::apply_shared_parameter(parameter, shared));
          }
          break;  // 'binary_data' means nothing here: every answer is binary
        }
        default:
          reader.skip();
      }
    }
    if (name.empty()) return refuse("an element of 'outputs' has no 'name'" + for_model());
    const auto index = oip::find_output(context_, out_, name);
    if (!index) return index.error();
    const TensorSpec& spec = signature().outputs[*index];
    if (shared.given) {
      if (classification != 0) {
        return refuse(message("output ", quoted(spec.name),
                              ": 'shared_memory_region' excludes 'classification'"));
      }
      return oip::outline_shared_output(context_, *index, shared, out_);
    }
    if (classification != 0) SERVOLLEY_TRY(oip::check_classification(spec));
    out_.outputs.push_back(
        {.index = *index, .form = OutputForm::kBinary, .classification = classification});
    return {};
  }

  const DecodeContext& context_;
  DecodeBudget budget_;
  InferRequest& out_;
  InlineList<std::uint32_t> order_;  // of the inputs in the request, as places in the signature
  std::size_t shared_inputs_ = 0;
  bool has_contents_ = false;
};

}  // namespace

Result<OipProtoHead> read_oip_head(std::span<const std::byte> message) {
  OipProtoHead head;
  Status status = proto::well_formed([&]() -> Status {
    Reader reader = proto::reader_of(message);
    while (reader.next()) {
      switch (reader.tag_and_type()) {
        case proto::bytes_field(1):
          SERVOLLEY_TRY(proto::take_text(reader, "model_name", head.model));
          break;
        case proto::bytes_field(2):
          SERVOLLEY_TRY(proto::take_text(reader, "model_version", head.version));
          break;
        case proto::bytes_field(3):
          SERVOLLEY_TRY(proto::take_text(reader, "id", head.id));
          break;
        default:
          reader.skip();
      }
    }
    return {};
  });
  if (!status.ok()) return status;
  return head;
}

Status decode_oip_proto(std::span<const std::byte> message, const DecodeContext& context,
                        InferRequest& out) {
  return proto::well_formed([&] { return Decoder(context, out).run(proto::reader_of(message)); });
}

}  // namespace servolley::codec
