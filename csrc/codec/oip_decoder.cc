#include "codec/oip_decoder.h"

namespace servolley::codec::oip {

bool Decoder::document() {
  out_.clear();
  out_.inputs.resize(signature().inputs.size());
  if (!reader_.begin_document()) return false;
  bool first = true;
  std::string_view key;
  while (reader_.next_member(first, key)) {
    if (!member(key)) return false;
  }
  if (reader_.failed() || !reader_.end_document()) return false;
  return inputs_complete() && resolve_outputs();
}

bool Decoder::member(std::string_view key) {
  if (key == "inputs") {
    if (std::exchange(has_inputs_, true)) return refuse_twice(key);
    return inputs();
  }
  if (key == "outputs") {
    if (std::exchange(has_outputs_, true)) return refuse_twice(key);
    return outputs();
  }
  if (key == "parameters") {
    if (std::exchange(has_parameters_, true)) return refuse_twice(key);
    return request_parameters();
  }
  if (key == "id") {
    if (std::exchange(has_id_, true)) return refuse_twice(key);
    std::string_view id;
    if (!expect(JsonKind::kString, "'id'", "a string") || !reader_.read_string(id, scratch_)) {
      return false;
    }
    out_.id = id;
    return true;
  }
  return reader_.skip_value(1);
}

bool Decoder::inputs_complete() {
  std::size_t given = 0;
  const TensorSpec* missing = nullptr;
  for (std::size_t i = 0; i < out_.inputs.size(); ++i) {
    if (out_.inputs[i].view.data) {
      ++given;
    } else if (!missing) {
      missing = &signature().inputs[i];
    }
  }
  if (missing) {
    return refuse(message("expected ", std::to_string(out_.inputs.size()), " inputs but got ",
                          std::to_string(given), " inputs", for_model(), ": missing ",
                          quoted(missing->name)));
  }
  if (!binary_.empty()) {
    return refuse(message("unexpected additional input data", for_model(), ": ",
                          std::to_string(binary_.size()), " bytes behind the last input"));
  }
  if (!signature().batched) return true;
  const std::int64_t rows = out_.inputs[0].view.shape[0];
  for (std::size_t i = 1; i < out_.inputs.size(); ++i) {
    const std::int64_t other = out_.inputs[i].view.shape[0];
    if (other != rows) {
      return refuse(message("all inputs must have the same first dimension", for_model(), ": ",
                            quoted(signature().inputs[0].name), " has ", std::to_string(rows), ", ",
                            quoted(signature().inputs[i].name), " has ", std::to_string(other)));
    }
  }
  return true;
}

bool Decoder::request_parameters() {
  if (!expect(JsonKind::kObject, "'parameters'", "an object") || !reader_.enter_object()) {
    return false;
  }
  bool first = true;
  std::string_view key;
  while (reader_.next_member(first, key)) {
    if (!request_parameter(key)) return false;
  }
  return !reader_.failed();
}

bool Decoder::request_parameter(std::string_view key) {
  if (key == "binary_data_output") {
    bool value = false;
    if (!expect(JsonKind::kBool, "parameter 'binary_data_output'", "true or false") ||
        !reader_.read_bool(value)) {
      return false;
    }
    if (default_form_) return refuse_twice(key);
    default_form_ = value ? OutputForm::kBinary : OutputForm::kJson;
    return true;
  }
  if (key == "priority") return parameter_uint64("parameter 'priority'", out_.priority);
  if (key == "timeout") {
    std::uint64_t timeout = 0;
    if (!parameter_uint64("parameter 'timeout'", timeout)) return false;
    // 0 asks for no timeout of the request's own, as in Triton.
    if (timeout != 0) out_.timeout_us = timeout;
    return true;
  }
  if (key.starts_with("sequence_")) {
    if (key == "sequence_id") return sequence_id();
    if (key == "sequence_start" || key == "sequence_end") return sequence_flag(key);
  }
  if (key.starts_with("triton_")) {
    return refuse(
        message("parameter ", quoted(key), ": names that begin with 'triton_' are ", "reserved"));
  }
  return custom_parameter(key);
}

bool Decoder::parameter_uint64(std::string_view who, std::uint64_t& out) {
  if (!expect(JsonKind::kNumber, who, "an integer that is not negative")) return false;
  if (reader_.read_uint64(out)) return true;
  return refuse_instead(message(who, " must be an integer from 0 to 18446744073709551615"));
}

bool Decoder::no_sequences() {
  return reader_.fail({Code::kUnimplemented, "sequences are not supported yet" + for_model()});
}

bool Decoder::sequence_id() {
  if (reader_.peek() == JsonKind::kString) {
    std::string_view id;
    if (!reader_.read_string(id, scratch_)) return false;
    return id.empty() || no_sequences();
  }
  std::uint64_t id = 0;
  if (!expect(JsonKind::kNumber, "parameter 'sequence_id'", "an integer or a string")) return false;
  return parameter_uint64("parameter 'sequence_id'", id) && (id == 0 || no_sequences());
}

bool Decoder::sequence_flag(std::string_view key) {
  bool value = false;
  if (!expect(JsonKind::kBool, key, "true or false")) return false;
  return reader_.read_bool(value) && (!value || no_sequences());
}

bool Decoder::custom_parameter(std::string_view key) {
  switch (reader_.peek()) {
    case JsonKind::kString:
    case JsonKind::kBool:
    case JsonKind::kNumber:
    case JsonKind::kInvalid:
      return reader_.skip_value(2);
    default:
      return wrong_kind("parameter " + quoted(key), "a string, a number or true or false");
  }
}

}  // namespace servolley::codec::oip
