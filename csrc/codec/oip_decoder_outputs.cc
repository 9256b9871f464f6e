#include "codec/oip_decoder.h"

namespace servolley::codec::oip {

bool Decoder::outputs() {
  if (!expect(JsonKind::kArray, "'outputs'", "an array") || !reader_.enter_array()) return false;
  bool first = true;
  while (reader_.next_element(first)) {
    if (!output()) return false;
  }
  return !reader_.failed();
}

bool Decoder::output() {
  if (!expect(JsonKind::kObject, "an element of 'outputs'", "an object") ||
      !reader_.enter_object()) {
    return false;
  }
  Output output;
  bool first = true;
  std::string_view key;
  while (reader_.next_member(first, key)) {
    if (!output_member(output, key)) return false;
  }
  return !reader_.failed() && resolve_output(output);
}

bool Decoder::output_member(Output& output, std::string_view key) {
  if (key == "name") {
    std::string_view name;
    if (output.index != kNone) return refuse_twice(key);
    if (!expect(JsonKind::kString, "'name' of an output", "a string") ||
        !reader_.read_string(name, scratch_)) {
      return false;
    }
    auto index = find_output(context_, out_, name);
    if (!index) return reader_.fail(std::move(index).error());
    output.index = *index;
    return true;
  }
  if (key == "parameters") {
    if (std::exchange(output.has_parameters, true)) return refuse_twice(key);
    return output_parameters(output);
  }
  return reader_.skip_value(3);
}

bool Decoder::output_parameters(Output& output) {
  if (!expect(JsonKind::kObject, "'parameters' of an output", "an object") ||
      !reader_.enter_object()) {
    return false;
  }
  bool first = true;
  std::string_view key;
  while (reader_.next_member(first, key)) {
    if (key == "binary_data") {
      bool value = false;
      if (output.binary) return refuse_twice(key);
      if (!expect(JsonKind::kBool, "parameter 'binary_data'", "true or false") ||
          !reader_.read_bool(value)) {
        return false;
      }
      output.binary = value;
      continue;
    }
    if (key == "classification") {
      std::uint64_t count = 0;
      if (output.classification != 0) return refuse_twice(key);
      if (!parameter_uint64("parameter 'classification'", count)) return false;
      if (count == 0 || count > std::numeric_limits<std::uint32_t>::max()) {
        return reader_.fail(bad_classification());
      }
      output.classification = static_cast<std::uint32_t>(count);
      continue;
    }
    bool known = false;
    if (!shared_parameter(key, output.shared, known)) return false;
    if (!known && !reader_.skip_value(4)) return false;
  }
  return !reader_.failed();
}

bool Decoder::resolve_output(const Output& output) {
  if (output.index == kNone) return refuse("an element of 'outputs' has no 'name'" + for_model());
  const TensorSpec& spec = signature().outputs[output.index];
  if (output.shared.given) {
    if (output.classification != 0 || output.binary.value_or(false)) {
      return refuse(message("output ", quoted(spec.name), ": 'shared_memory_region' excludes ",
                            "'classification' and 'binary_data'"));
    }
    return accept(outline_shared_output(context_, static_cast<std::uint32_t>(output.index),
                                        output.shared, out_));
  }
  if (output.classification != 0 && !accept(check_classification(spec))) return false;
  out_.outputs.push_back(
      {.index = static_cast<std::uint32_t>(output.index),
       .form = output.binary.value_or(false) ? OutputForm::kBinary : OutputForm::kJson,
       .classification = output.classification});
  return true;
}

bool Decoder::resolve_outputs() {
  if (out_.outputs.empty()) {
    const OutputForm form = default_form_.value_or(OutputForm::kJson);
    for (std::uint32_t i = 0; i < signature().outputs.size(); ++i) {
      out_.outputs.push_back({.index = i, .form = form, .classification = 0});
    }
  }
  for (const RequestedOutput& output : out_.outputs) {
    const TensorSpec& spec = signature().outputs[output.index];
    if (output.form == OutputForm::kJson && output.classification == 0 &&
        (spec.dtype == DType::kFp16 || spec.dtype == DType::kBf16)) {
      return refuse(message("sending ", oip_name(spec.dtype), " data via JSON is not supported: ",
                            "use the binary data format for output ", quoted(spec.name)));
    }
  }
  return true;
}

}  // namespace servolley::codec::oip
