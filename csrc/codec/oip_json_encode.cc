#include <vector>

#include "codec/classification.h"
#include "codec/json_tensor_write.h"
#include "codec/json_write.h"
#include "codec/messages.h"
#include "codec/oip_json.h"
#include "memory/buffer_writer.h"

namespace servolley::codec {
namespace {

constexpr std::size_t kIntText = 21;  // a 64-bit integer and its comma

class Encoder {
 public:
  Encoder(const InferRequest& request, std::span<const OutputView> outputs,
          const EncodeContext& context, Payload& payload)
      : request_(request),
        outputs_(outputs),
        context_(context),
        payload_(payload),
        writer_(context.pool) {}

  Result<OipResponseInfo> run() {
    if (Status status = write_json(); !status.ok()) return status;
    OipResponseInfo info;
    // With binary outputs of length 0 only, the client reads the whole body as JSON and must not
    // see the header.
    if (binary_bytes_ > 0) info.json_length = writer_.size();
    const std::size_t json_bytes = writer_.size();
    const std::byte* const json = writer_.data();
    payload_.add(writer_.take(), json, json_bytes);
    add_binaries();
    return info;
  }

 private:
  Status write_json() {
    std::size_t room = 64 + escaped_size(request_.id) + escaped_size(context_.model) +
                       escaped_size(context_.version);
    // Enough for all outputs without JSON data, so that the usual answer is one allocation.
    for (const RequestedOutput& requested : request_.outputs) room += head_room(requested);
    SERVOLLEY_TRY(writer_.reserve(room));
    char* const start = reinterpret_cast<char*>(writer_.tail());
    char* at = put_text(start, "{");
    if (!request_.id.empty()) {
      at = put_text(at, "\"id\":");
      at = put_quoted(at, request_.id);
      *at++ = ',';
    }
    at = put_text(at, "\"model_name\":");
    at = put_quoted(at, context_.model);
    at = put_text(at, ",\"model_version\":");
    at = put_quoted(at, context_.version);
    at = put_text(at, ",\"outputs\":[");
    writer_.advance(static_cast<std::size_t>(at - start));
    bool first = true;
    for (const RequestedOutput& requested : request_.outputs) {
      if (!std::exchange(first, false)) SERVOLLEY_TRY(writer_.append(","));
      SERVOLLEY_TRY(write_output(requested));
    }
    return writer_.append("]}");
  }

  std::size_t head_room(const RequestedOutput& requested) const {
    const std::size_t region = requested.form == OutputForm::kShared
                                   ? 128 + 2 * kIntText + escaped_size(part(requested).region)
                                   : 0;
    return 128 + escaped_size(spec(requested).name) + (kMaxRank + 1) * kIntText + region;
  }

  const TensorSpec& spec(const RequestedOutput& requested) const {
    return context_.signature.outputs[requested.index];
  }

  const SharedPart& part(const RequestedOutput& requested) const {
    return request_.shared_outputs[requested.shared];
  }

  // Behind the shape: where the client finds the output instead of here.
  char* put_part(char* at, const SharedPart& part, const TensorView& view) const {
    at = put_text(at, "],\"parameters\":{\"shared_memory_region\":");
    at = put_quoted(at, part.region);
    if (part.offset != 0) {
      at = put_text(at, ",\"shared_memory_offset\":");
      at = put_uint(at, part.offset);
    }
    at = put_text(at, ",\"shared_memory_byte_size\":");
    at = put_uint(at, view.bytes);
    return put_text(at, "}}");
  }

  Status write_output(const RequestedOutput& requested) {
    const TensorView* view = &outputs_[requested.index].view;
    if (requested.classification != 0) {
      auto classes = classify(*view, spec(requested), context_.signature.batched,
                              requested.classification, context_.pool);
      if (!classes) return std::move(classes).error();
      classified_.push_back(std::move(*classes));
      view = &classified_.back().view;
    }
    SERVOLLEY_TRY(writer_.reserve(head_room(requested)));
    char* const start = reinterpret_cast<char*>(writer_.tail());
    char* at = put_text(start, "{\"name\":");
    at = put_quoted(at, spec(requested).name);
    at = put_text(at, ",\"datatype\":\"");
    at = put_text(at, oip_name(view->dtype));
    at = put_text(at, "\",\"shape\":[");
    for (std::size_t i = 0; i < view->shape.rank(); ++i) {
      if (i) *at++ = ',';
      at = put_int(at, view->shape[i]);
    }
    if (requested.form == OutputForm::kBinary) {
      at = put_text(at, "],\"parameters\":{\"binary_data_size\":");
      at = put_uint(at, view->bytes);
      at = put_text(at, "}}");
      writer_.advance(static_cast<std::size_t>(at - start));
      binary_bytes_ += view->bytes;
      return {};
    }
    if (requested.form == OutputForm::kShared) {
      at = put_part(at, part(requested), *view);
      writer_.advance(static_cast<std::size_t>(at - start));
      return {};
    }
    at = put_text(at, "],\"data\":");
    writer_.advance(static_cast<std::size_t>(at - start));
    SERVOLLEY_TRY(TensorWriter(*view, spec(requested).name, {}, writer_).write_flat());
    return writer_.append("}");
  }

  void add_binaries() {
    std::size_t next_classified = 0;
    for (const RequestedOutput& requested : request_.outputs) {
      ClassifiedTensor* const classified =
          requested.classification != 0 ? &classified_[next_classified++] : nullptr;
      if (requested.form != OutputForm::kBinary) continue;
      if (classified) {
        payload_.add(std::move(classified->owner), classified->view.data, classified->view.bytes);
        continue;
      }
      const OutputView& output = outputs_[requested.index];
      payload_.add(output.owner ? output.owner->share() : Buffer(), output.view.data,
                   output.view.bytes);
    }
  }

  const InferRequest& request_;
  const std::span<const OutputView> outputs_;
  const EncodeContext& context_;
  Payload& payload_;
  BufferWriter writer_;
  std::vector<ClassifiedTensor> classified_;
  std::size_t binary_bytes_ = 0;
};

}  // namespace

Result<OipResponseInfo> encode_oip_json(const InferRequest& request,
                                        std::span<const OutputView> outputs,
                                        const EncodeContext& context, Payload& payload) {
  return Encoder(request, outputs, context, payload).run();
}

void append_error_json(std::string_view message, std::string& out) {
  constexpr std::string_view kHead = "{\"error\":\"";
  constexpr std::string_view kTail = "\"}";
  const std::size_t before = out.size();
  out.resize(before + kHead.size() + escaped_size(message) + kTail.size());
  bool valid = true;
  char* at = put_text(out.data() + before, kHead);
  at = put_escaped(at, message, valid);
  put_text(at, kTail);
}

}  // namespace servolley::codec
