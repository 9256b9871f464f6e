#include <vector>

#include "codec/json_tensor_write.h"
#include "codec/json_write.h"
#include "codec/messages.h"
#include "codec/tfs_json.h"
#include "memory/buffer_writer.h"

namespace servolley::codec {
namespace {

constexpr std::string_view kBase64Suffix = "_bytes";

class Encoder {
 public:
  Encoder(std::span<const OutputView> outputs, const EncodeContext& context)
      : outputs_(outputs), specs_(context.signature.outputs), writer_(context.pool) {}

  Status run(bool columnar, Payload& payload) {
    SERVOLLEY_TRY(columnar ? write_columnar() : write_rows());
    SERVOLLEY_TRY(writer_.append("\n}"));
    const std::byte* const data = writer_.data();
    const std::size_t size = writer_.size();
    payload.add(writer_.take(), data, size);
    return {};
  }

 private:
  TensorWriter tensor(std::size_t i) {
    const bool base64 = std::string_view(specs_[i].name).ends_with(kBase64Suffix);
    return {outputs_[i].view, specs_[i].name,
            TensorStyle{.floats = FloatRule::kTensorFlow,
                        .bytes = base64 ? BytesForm::kBase64 : BytesForm::kText,
                        .separator = ", "},
            writer_};
  }

  Status write_name(std::size_t i) {
    const std::string& name = specs_[i].name;
    SERVOLLEY_TRY(writer_.reserve(escaped_size(name) + 4));
    char* const start = reinterpret_cast<char*>(writer_.tail());
    char* const end = put_text(put_quoted(start, name), ": ");
    writer_.advance(static_cast<std::size_t>(end - start));
    return {};
  }

  // A lone output has no name.
  Status write_columnar() {
    SERVOLLEY_TRY(writer_.append("{\n    \"outputs\": "));
    if (outputs_.size() == 1) return tensor(0).write_nested(0);
    SERVOLLEY_TRY(writer_.append("{"));
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      SERVOLLEY_TRY(writer_.append(i ? ",\n        " : "\n        "));
      SERVOLLEY_TRY(write_name(i));
      SERVOLLEY_TRY(tensor(i).write_nested(0));
    }
    return writer_.append("\n    }");
  }

  Status check_rows() const {
    for (std::size_t i = 0; i < outputs_.size(); ++i) {
      const Shape& shape = outputs_[i].view.shape;
      if (shape.rank() == 0) {
        return invalid_argument(message("output ", quoted(specs_[i].name), " is a scalar: the row ",
                                        "form ('instances') needs outputs with a batch dimension, ",
                                        "use 'inputs'"));
      }
      if (shape[0] != outputs_[0].view.shape[0]) {
        return invalid_argument(message(
            "inconsistent batch size: output ", quoted(specs_[i].name), " has ",
            std::to_string(shape[0]), " rows, ", quoted(specs_[0].name), " has ",
            std::to_string(outputs_[0].view.shape[0]), "; use 'inputs' in place of 'instances'"));
      }
    }
    return {};
  }

  Status write_rows() {
    SERVOLLEY_TRY(check_rows());
    SERVOLLEY_TRY(writer_.append("{\n    \"predictions\": "));
    if (outputs_.size() == 1) return tensor(0).write_nested(0);
    std::vector<TensorWriter> tensors;
    tensors.reserve(outputs_.size());
    for (std::size_t i = 0; i < outputs_.size(); ++i) tensors.push_back(tensor(i));
    const std::int64_t rows = outputs_.empty() ? 0 : outputs_[0].view.shape[0];
    SERVOLLEY_TRY(writer_.append("["));
    for (std::int64_t row = 0; row < rows; ++row) {
      SERVOLLEY_TRY(writer_.append(row ? ",\n        {" : "\n        {"));
      for (std::size_t i = 0; i < tensors.size(); ++i) {
        SERVOLLEY_TRY(writer_.append(i ? ",\n            " : "\n            "));
        SERVOLLEY_TRY(write_name(i));
        SERVOLLEY_TRY(tensors[i].write_nested(1));
      }
      SERVOLLEY_TRY(writer_.append("\n        }"));
    }
    return writer_.append(rows ? "\n    ]" : "]");
  }

  const std::span<const OutputView> outputs_;
  const std::vector<TensorSpec>& specs_;
  BufferWriter writer_;
};

}  // namespace

Status encode_tfs_predict(const InferRequest& request, std::span<const OutputView> outputs,
                          const EncodeContext& context, Payload& payload) {
  return Encoder(outputs, context).run(request.columnar, payload);
}

}  // namespace servolley::codec
