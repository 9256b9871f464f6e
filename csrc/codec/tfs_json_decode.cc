#include <memory>
#include <utility>
#include <vector>

#include "codec/json_reader.h"
#include "codec/json_tensor.h"
#include "codec/messages.h"
#include "codec/tfs_json.h"

namespace servolley::codec {
namespace {

constexpr std::string_view kDefaultSignature = "serving_default";

class Decoder {
 public:
  Decoder(std::string_view text, const DecodeContext& context, InferRequest& out)
      : reader_(text),
        signature_(context.signature),
        context_(context),
        budget_(context.decoded_bytes_limit),
        out_(out) {}

  Status run() {
    if (document()) return {};
    return reader_.take_error();
  }

 private:
  bool refuse(std::string text) { return reader_.fail(invalid_argument(std::move(text))); }

  bool document() {
    out_.clear();
    out_.inputs.resize(signature_.inputs.size());
    if (!reader_.begin_document()) return false;
    bool first = true;
    std::string_view key;
    while (reader_.next_member(first, key)) {
      if (!member(key)) return false;
    }
    if (reader_.failed() || !reader_.end_document()) return false;
    if (!has_tensors_) return refuse("the request has neither 'instances' nor 'inputs'");
    for (std::uint32_t i = 0; i < signature_.outputs.size(); ++i) {
      out_.outputs.push_back({.index = i, .form = OutputForm::kJson, .classification = 0});
    }
    return true;
  }

  bool member(std::string_view key) {
    const bool row = key == "instances";
    if (row || key == "inputs") {
      if (std::exchange(has_tensors_, true)) {
        return refuse("the request must have exactly one of 'instances' and 'inputs', once");
      }
      out_.columnar = !row;
      return row ? instances() : inputs();
    }
    if (key == "signature_name") return signature_name();
    return reader_.skip_value(1);
  }

  bool signature_name() {
    if (const JsonKind kind = reader_.peek(); kind != JsonKind::kString) {
      if (kind == JsonKind::kInvalid) return reader_.fail_syntax("expected a value");
      return refuse(message("'signature_name' must be a string, not ", json_kind_name(kind)));
    }
    std::string_view name;
    std::string scratch;
    if (!reader_.read_string(name, scratch)) return false;
    if (name.empty() || name == kDefaultSignature) return true;
    return refuse(message("Serving signature name: ", quoted(name),
                          " not found in the signatures of model '", context_.model, "'"));
  }

  TensorSource source(std::size_t index) {
    return {.reader = reader_,
            .pool = context_.pool,
            .budget = budget_,
            .input = signature_.inputs[index].name,
            .dtype = signature_.inputs[index].dtype,
            .overflow = FloatOverflow::kInfinity,
            .base64 = true};
  }

  // Whether the object at the cursor is {"b64": "<string>"}, which is a value and not a list of
  // named inputs. The cursor stays.
  bool at_base64_object() {
    JsonReader ahead(std::string_view(reader_.at(), reader_.left()));
    bool first = true;
    std::string_view key;
    if (!ahead.enter_object() || !ahead.next_member(first, key) || key != "b64" ||
        ahead.peek() != JsonKind::kString) {
      return false;
    }
    bool escaped = false;
    return ahead.scan_string(key, escaped) && !ahead.next_member(first, key) && !ahead.failed();
  }

  bool wrong_key_set(std::string_view where, std::string_view what, std::string_view name) {
    return refuse(message(where, ": ", what, " input ", quoted(name), " (model '", context_.model,
                          "' has ", std::to_string(signature_.inputs.size()), " inputs)"));
  }

  // --- row form ---

  bool instances() {
    if (reader_.peek() != JsonKind::kArray) return refuse("'instances' must be an array");
    const char* const array = reader_.at();
    if (!reader_.enter_array()) return false;
    switch (reader_.peek()) {
      case JsonKind::kObject:
        if (!at_base64_object() || signature_.inputs.size() != 1) return named_instances();
        break;
      case JsonKind::kInvalid:
        if (reader_.left() > 0 && *reader_.at() == ']') return refuse("no values in 'instances'");
        return reader_.fail_syntax("expected a value");
      default:
        break;
    }
    if (signature_.inputs.size() != 1) {
      return refuse(message("'instances' is a plain list, but model '", context_.model, "' has ",
                            std::to_string(signature_.inputs.size()),
                            " inputs: every instance must be an object that names them"));
    }
    reader_.move_to(array);
    return read_inferred_tensor(source(0), out_.inputs[0]);
  }

  bool named_instances() {
    const std::size_t count = signature_.inputs.size();
    std::vector<std::unique_ptr<ScatteredTensor>> tensors(count);
    std::vector<std::size_t> rows(count, 0);
    for (std::size_t i = 0; i < count; ++i) tensors[i] = make_scattered_tensor(source(i));
    std::size_t instance = 0;
    bool first = true;
    while (reader_.next_element(first)) {
      ++instance;
      if (const JsonKind kind = reader_.peek(); kind != JsonKind::kObject) {
        if (kind == JsonKind::kInvalid) return reader_.fail_syntax("expected a value");
        return refuse(
            message("'instances' begins with an object but also has ", json_kind_name(kind)));
      }
      if (!named_instance(instance, tensors, rows)) return false;
    }
    if (reader_.failed()) return false;
    for (std::size_t i = 0; i < count; ++i) {
      if (!tensors[i]->finish(out_.inputs[i])) return false;
    }
    return true;
  }

  bool named_instance(std::size_t instance, std::vector<std::unique_ptr<ScatteredTensor>>& tensors,
                      std::vector<std::size_t>& rows) {
    if (!reader_.enter_object()) return false;
    const auto where = [&] { return message("instance ", std::to_string(instance - 1)); };
    std::size_t given = 0;
    bool first = true;
    std::string_view key;
    while (reader_.next_member(first, key)) {
      const auto index = signature_.input_index(key);
      if (!index) return wrong_key_set(where(), "unexpected", key);
      if (rows[*index] == instance) return wrong_key_set(where(), "repeated", key);
      rows[*index] = instance;
      if (!tensors[*index]->append()) return false;
      ++given;
    }
    if (reader_.failed()) return false;
    if (given == tensors.size()) return true;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      if (rows[i] != instance) return wrong_key_set(where(), "missing", signature_.inputs[i].name);
    }
    return true;
  }

  // --- columnar form ---

  bool inputs() {
    const JsonKind kind = reader_.peek();
    if (kind == JsonKind::kObject && !(signature_.inputs.size() == 1 && at_base64_object())) {
      return named_inputs();
    }
    if (signature_.inputs.size() != 1) {
      if (kind == JsonKind::kInvalid) return reader_.fail_syntax("expected a value");
      return refuse(message("'inputs' must be an object that names the ",
                            std::to_string(signature_.inputs.size()), " inputs of model '",
                            context_.model, "'"));
    }
    return read_inferred_tensor(source(0), out_.inputs[0]);
  }

  bool named_inputs() {
    if (!reader_.enter_object()) return false;
    bool first = true;
    std::string_view key;
    while (reader_.next_member(first, key)) {
      const auto index = signature_.input_index(key);
      if (!index) {  // ignored, as TensorFlow Serving does
        if (!reader_.skip_value(2)) return false;
        continue;
      }
      // A tensor that was read has data, be it of length 0.
      if (out_.inputs[*index].view.data) return wrong_key_set("'inputs'", "repeated", key);
      if (!read_inferred_tensor(source(*index), out_.inputs[*index])) return false;
    }
    if (reader_.failed()) return false;
    for (std::size_t i = 0; i < out_.inputs.size(); ++i) {
      if (!out_.inputs[i].view.data) {
        return wrong_key_set("'inputs'", "missing", signature_.inputs[i].name);
      }
    }
    return true;
  }

  JsonReader reader_;
  const Signature& signature_;
  const DecodeContext& context_;
  DecodeBudget budget_;
  InferRequest& out_;
  bool has_tensors_ = false;
};

}  // namespace

Status decode_tfs_predict(std::span<const std::byte> body, const DecodeContext& context,
                          InferRequest& out) {
  return Decoder({reinterpret_cast<const char*>(body.data()), body.size()}, context, out).run();
}

}  // namespace servolley::codec
