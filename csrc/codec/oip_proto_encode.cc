#include <algorithm>
#include <vector>

#include "codec/classification.h"
#include "codec/oip_proto.h"
#include "codec/proto_writer.h"
#include "codec/utf8.h"

namespace servolley::codec {
namespace {

using proto::field_size;
using proto::MessageWriter;
using proto::text_size;
using proto::varint_size;

// parameters = {"triton_final_response": {bool_param: true}}, as a field of a ModelInferResponse.
constexpr std::string_view kFinal =
    "\x22\x1b"
    "\x0a\x15"
    "triton_final_response"
    "\x12\x02\x08\x01";
static_assert(kFinal.size() == 2 + 0x1b && kFinal.size() == 2 + 2 + 0x15 + 4);

class Encoder {
 public:
  Encoder(const InferRequest& request, std::span<const OutputView> outputs,
          const EncodeContext& context, Payload& payload)
      : request_(request), outputs_(outputs), context_(context), payload_(payload) {}

  Status run(bool final_response) {
    SERVOLLEY_TRY(make_classes());
    std::size_t bytes = text_size(1, context_.model) + text_size(2, context_.version) +
                        text_size(3, request_.id) + (final_response ? kFinal.size() : 0);
    for (std::size_t i = 0; i < request_.outputs.size(); ++i) {
      const TensorView& view = output(i).view;
      const std::size_t data = data_size(i);
      bytes += field_size(5, head_size(i, view));
      bytes += field_size(6, data);
      if (data > proto::kViewBytes) bytes -= data;
    }

    MessageWriter writer(payload_);
    SERVOLLEY_TRY(writer.begin(context_.pool, bytes));
    writer.text(1, context_.model);
    writer.text(2, context_.version);
    writer.text(3, request_.id);
    if (final_response) writer.raw(kFinal.data(), kFinal.size());
    for (std::size_t i = 0; i < request_.outputs.size(); ++i) write_head(i, writer);
    for (std::size_t i = 0; i < request_.outputs.size(); ++i) write_data(i, writer);
    writer.finish();
    return {};
  }

 private:
  Status make_classes() {
    for (const RequestedOutput& requested : request_.outputs) {
      if (requested.classification == 0) continue;
      auto classes = classify(outputs_[requested.index].view, spec(requested),
                              context_.signature.batched, requested.classification, context_.pool);
      if (!classes) return std::move(classes).error();
      classified_.push_back(std::move(*classes));
    }
    return {};
  }

  // Where the i-th output has been written instead of into the answer, if so.
  const SharedPart* shared(std::size_t i) const {
    const RequestedOutput& requested = request_.outputs[i];
    return requested.form == OutputForm::kShared ? &request_.shared_outputs[requested.shared]
                                                 : nullptr;
  }
  std::size_t data_size(std::size_t i) const { return shared(i) ? 0 : output(i).view.bytes; }

  const TensorSpec& spec(const RequestedOutput& requested) const {
    return context_.signature.outputs[requested.index];
  }

  struct Source {
    const TensorView& view;
    const Buffer* owner;
  };

  // The i-th output of the answer: the tensor or its classes.
  Source output(std::size_t i) const {
    const RequestedOutput& requested = request_.outputs[i];
    if (requested.classification == 0) {
      return {outputs_[requested.index].view, outputs_[requested.index].owner};
    }
    const auto before = std::count_if(
        request_.outputs.begin(), request_.outputs.begin() + static_cast<std::ptrdiff_t>(i),
        [](const RequestedOutput& other) { return other.classification != 0; });
    const ClassifiedTensor& classes = classified_[static_cast<std::size_t>(before)];
    return {classes.view, &classes.owner};
  }

  static std::size_t dims_size(const Shape& shape) {
    std::size_t bytes = 0;
    for (const std::int64_t dim : shape.dims()) {
      bytes += varint_size(static_cast<std::uint64_t>(dim));
    }
    return bytes;
  }

  // An entry of a map of InferParameters whose value takes `value` bytes.
  static std::size_t entry_size(std::string_view key, std::size_t value) {
    return text_size(1, key) + field_size(2, value);
  }
  static void write_entry(std::string_view key, std::size_t value, MessageWriter& writer) {
    writer.field(4, entry_size(key, value));
    writer.text(1, key);
    writer.field(2, value);
  }
  static void write_number(std::string_view key, std::uint64_t number, MessageWriter& writer) {
    write_entry(key, proto::varint_field_size(2, number), writer);
    writer.varint_field(2, number);
  }
  static std::size_t number_size(std::string_view key, std::uint64_t number) {
    return field_size(4, entry_size(key, proto::varint_field_size(2, number)));
  }

  static constexpr std::string_view kRegion = "shared_memory_region";
  static constexpr std::string_view kOffset = "shared_memory_offset";
  static constexpr std::string_view kBytes = "shared_memory_byte_size";

  static std::size_t part_size(const SharedPart& part, const TensorView& view) {
    const std::size_t name = text_size(3, part.region);
    return field_size(4, entry_size(kRegion, name)) +
           (part.offset ? number_size(kOffset, part.offset) : 0) + number_size(kBytes, view.bytes);
  }
  static void write_part(const SharedPart& part, const TensorView& view, MessageWriter& writer) {
    write_entry(kRegion, text_size(3, part.region), writer);
    writer.text(3, part.region);
    if (part.offset) write_number(kOffset, part.offset, writer);
    write_number(kBytes, view.bytes, writer);
  }

  // An InferOutputTensor.
  std::size_t head_size(std::size_t i, const TensorView& view) const {
    const std::size_t dims = dims_size(view.shape);
    return text_size(1, spec(request_.outputs[i]).name) + text_size(2, oip_name(view.dtype)) +
           (dims ? field_size(3, dims) : 0) + (shared(i) ? part_size(*shared(i), view) : 0);
  }

  void write_head(std::size_t i, MessageWriter& writer) const {
    const TensorView& view = output(i).view;
    writer.field(5, head_size(i, view));
    writer.text(1, spec(request_.outputs[i]).name);
    writer.text(2, oip_name(view.dtype));
    if (view.shape.rank() > 0) {
      writer.field(3, dims_size(view.shape));
      for (const std::int64_t dim : view.shape.dims()) {
        writer.varint(static_cast<std::uint64_t>(dim));
      }
    }
    if (const SharedPart* const part = shared(i)) write_part(*part, view, writer);
  }

  // An entry even if it is empty: clients count them.
  void write_data(std::size_t i, MessageWriter& writer) const {
    const Source source = output(i);
    const std::size_t bytes = data_size(i);
    writer.field(6, bytes);
    if (bytes > proto::kViewBytes) {
      writer.view(source.owner ? source.owner->share() : Buffer(), source.view.data, bytes);
    } else {
      writer.raw(source.view.data, bytes);
    }
  }

  const InferRequest& request_;
  const std::span<const OutputView> outputs_;
  const EncodeContext& context_;
  Payload& payload_;
  std::vector<ClassifiedTensor> classified_;  // in the order of the answer
};

}  // namespace

Status encode_oip_proto(const InferRequest& request, std::span<const OutputView> outputs,
                        const EncodeContext& context, bool final_response, Payload& payload) {
  return Encoder(request, outputs, context, payload).run(final_response);
}

Status prepend_stream_envelope(Payload& response, Pool& pool) {
  Payload envelope;
  MessageWriter writer(envelope);
  SERVOLLEY_TRY(writer.begin(pool, field_size(2, response.size()) - response.size()));
  writer.field(2, response.size());
  writer.finish();
  Segment& head = envelope.segments().front();
  response.prepend(std::move(head.owner), head.data, head.size);
  return {};
}

Status encode_oip_stream_error(std::string_view message, std::string_view model,
                               std::string_view version, std::string_view id, Pool& pool,
                               Payload& payload) {
  const std::size_t response =
      text_size(1, model) + text_size(2, version) + text_size(3, id) + kFinal.size();
  MessageWriter writer(payload);
  SERVOLLEY_TRY(writer.begin(pool, text_size(1, message) + field_size(2, response)));
  if (!message.empty()) {
    writer.field(1, message.size());
    // A runtime's words may hold anything; one bad byte would make the answer unreadable.
    char* const text = writer.take(message.size());
    std::copy(message.begin(), message.end(), text);
    replace_bad_utf8(text, message.size());
  }
  writer.field(2, response);
  writer.text(1, model);
  writer.text(2, version);
  writer.text(3, id);
  writer.raw(kFinal.data(), kFinal.size());
  writer.finish();
  return {};
}

}  // namespace servolley::codec
