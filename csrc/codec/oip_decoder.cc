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
  if (!accept(check_complete(context_, out_))) return false;
  if (!binary_.empty()) {
    return refuse(message("unexpected additional input data", for_model(), ": ",
                          std::to_string(binary_.size()), " bytes behind the last input"));
  }
  return accept(check_rows(context_, out_));
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
    return reader_.fail(reserved_parameter(key));
  }
  return custom_parameter(key);
}

bool Decoder::parameter_uint64(std::string_view who, std::uint64_t& out) {
  if (!expect(JsonKind::kNumber, who, "an integer that is not negative")) return false;
  if (reader_.read_uint64(out)) return true;
  return refuse_instead(message(who, " must be an integer from 0 to 18446744073709551615"));
}

bool Decoder::shared_parameter(std::string_view key, SharedParameters& out, bool& known) {
  known = true;
  if (key == "shared_memory_region") {
    if (std::exchange(out.given, true)) return refuse_twice(key);
    std::string_view region;
    if (!expect(JsonKind::kString, "parameter 'shared_memory_region'", "a string") ||
        !reader_.read_string(region, scratch_)) {
      return false;
    }
    out.region = region;
    return true;
  }
  std::optional<std::uint64_t>* const number = key == "shared_memory_offset"      ? &out.offset
                                               : key == "shared_memory_byte_size" ? &out.bytes
                                                                                  : nullptr;
  if (!number) {
    known = false;
    return true;
  }
  if (*number) return refuse_twice(key);
  return parameter_uint64(number == &out.bytes ? "parameter 'shared_memory_byte_size'"
                                               : "parameter 'shared_memory_offset'",
                          number->emplace());
}

bool Decoder::sequence_id() {
  if (reader_.peek() == JsonKind::kString) {
    std::string_view id;
    if (!reader_.read_string(id, scratch_)) return false;
    return id.empty() || reader_.fail(no_sequences(context_));
  }
  std::uint64_t id = 0;
  if (!expect(JsonKind::kNumber, "parameter 'sequence_id'", "an integer or a string")) return false;
  return parameter_uint64("parameter 'sequence_id'", id) &&
         (id == 0 || reader_.fail(no_sequences(context_)));
}

bool Decoder::sequence_flag(std::string_view key) {
  bool value = false;
  if (!expect(JsonKind::kBool, key, "true or false")) return false;
  return reader_.read_bool(value) && (!value || reader_.fail(no_sequences(context_)));
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
