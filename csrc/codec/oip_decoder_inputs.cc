#include "codec/oip_decoder.h"

namespace servolley::codec::oip {

bool Decoder::inputs() {
  if (!expect(JsonKind::kArray, "'inputs'", "an array") || !reader_.enter_array()) return false;
  bool first = true;
  while (reader_.next_element(first)) {
    // Every input is known and no name comes twice, so there are never more than the model has.
    if (!input()) return false;
  }
  return !reader_.failed();
}

bool Decoder::input() {
  if (!expect(JsonKind::kObject, "an element of 'inputs'", "an object") ||
      !reader_.enter_object()) {
    return false;
  }
  Input input;
  bool first = true;
  std::string_view key;
  while (reader_.next_member(first, key)) {
    if (!input_member(input, key)) return false;
  }
  return !reader_.failed() && resolve_input(input);
}

bool Decoder::input_member(Input& input, std::string_view key) {
  if (key == "name") return input_name_member(input);
  if (key == "shape") {
    if (std::exchange(input.has_shape, true)) return refuse_twice(key);
    return shape(input);
  }
  if (key == "datatype") {
    std::string_view name;
    if (input.dtype) return refuse_twice(key);
    if (!expect(JsonKind::kString, "'datatype'", input, "a string") ||
        !reader_.read_string(name, scratch_)) {
      return false;
    }
    input.dtype = dtype_from_oip(name);
    return input.dtype || refuse(message("unknown datatype ", quoted(name), " of ",
                                         input_name(input), for_model()));
  }
  if (key == "parameters") {
    if (std::exchange(input.has_parameters, true)) return refuse_twice(key);
    return input_parameters(input);
  }
  if (key == "data") {
    if (input.data) return refuse_twice(key);
    if (!expect(JsonKind::kArray, "'data'", input, "an array")) return false;
    input.data = reader_.at();
    if (input.index == kNone || !input.dtype || !input.has_shape) return reader_.skip_value(3);
    return read_data(input);
  }
  return reader_.skip_value(3);
}

bool Decoder::input_name_member(Input& input) {
  std::string_view name;
  if (input.index != kNone) return refuse_twice("name");
  if (!expect(JsonKind::kString, "'name' of an input", "a string") ||
      !reader_.read_string(name, scratch_)) {
    return false;
  }
  auto index = find_input(context_, name);
  if (!index) return reader_.fail(std::move(index).error());
  input.index = *index;
  // Every read input has data, be it of length 0 (see resolve_input).
  return !out_.inputs[*index].given() || reader_.fail(input_given_twice(context_, *index));
}

bool Decoder::shape(Input& input) {
  const auto bad = [&](std::string_view what) {
    return reader_.fail_instead(bad_shape(context_, input_name(input), what));
  };
  if (!expect(JsonKind::kArray, "'shape'", input, "an array") || !reader_.enter_array()) {
    return false;
  }
  bool first = true;
  while (reader_.next_element(first)) {
    bool negative = false;
    std::uint64_t dim = 0;
    if (!reader_.read_integer(negative, dim) || (negative && dim != 0) ||
        dim > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) {
      return bad(kBadDimension);
    }
    if (input.shape.full()) {
      return bad("more than " + std::to_string(kMaxRank) + " dimensions");
    }
    input.shape.push_back(static_cast<std::int64_t>(dim));
  }
  if (reader_.failed()) return false;
  return input.shape.element_count() || bad(kTooManyElements);
}

bool Decoder::input_parameters(Input& input) {
  if (!expect(JsonKind::kObject, "'parameters'", input, "an object") || !reader_.enter_object()) {
    return false;
  }
  bool first = true;
  std::string_view key;
  while (reader_.next_member(first, key)) {
    if (key == "binary_data_size") {
      if (input.binary_size) return refuse_twice(key);
      std::uint64_t size = 0;
      if (!parameter_uint64("parameter 'binary_data_size'", size)) return false;
      input.binary_size = size;
      continue;
    }
    bool known = false;
    if (!shared_parameter(key, input.shared, known)) return false;
    if (!known && !reader_.skip_value(4)) return false;
  }
  return !reader_.failed();
}

bool Decoder::check(Input& input) {
  if (input.checked) return true;
  if (input.index == kNone) return refuse("an element of 'inputs' has no 'name'" + for_model());
  if (!input.dtype) return refuse("no 'datatype' for " + input_name(input) + for_model());
  if (!input.has_shape) return refuse("no 'shape' for " + input_name(input) + for_model());
  auto elements =
      check_input(context_, static_cast<std::uint32_t>(input.index), *input.dtype, input.shape);
  if (!elements) return reader_.fail(std::move(elements).error());
  input.elements = *elements;
  input.checked = true;
  return true;
}

bool Decoder::read_data(Input& input) {
  if (!check(input)) return false;
  if (*input.dtype == DType::kFp16 || *input.dtype == DType::kBf16) {
    return refuse(message("sending ", oip_name(*input.dtype), " data via JSON is not supported: ",
                          "use the binary data format for ", input_name(input)));
  }
  input.data_read = true;
  return read_declared_tensor({.reader = reader_,
                               .pool = context_.pool,
                               .budget = budget_,
                               .input = signature().inputs[input.index].name,
                               .dtype = *input.dtype,
                               .overflow = FloatOverflow::kRefuse},
                              input.shape, input.elements, out_.inputs[input.index]);
}

bool Decoder::resolve_input(Input& input) {
  if (!check(input)) return false;
  const int sources =
      (input.data ? 1 : 0) + (input.binary_size ? 1 : 0) + (input.shared.given ? 1 : 0);
  if (sources != 1) {
    return refuse(message(input_name(input), for_model(), " must have exactly one of 'data', ",
                          "'binary_data_size' and 'shared_memory_region', not ",
                          sources == 0 ? "none" : "several"));
  }
  if (input.shared.given) {
    return accept(outline_shared_input(context_, static_cast<std::uint32_t>(input.index),
                                       input.shape, input.elements, input.shared, out_));
  }
  if (input.binary_size) return resolve_binary(input);
  if (input.data_read) return true;
  const char* const behind = reader_.at();
  reader_.move_to(input.data);
  if (!read_data(input)) return false;
  reader_.move_to(behind);
  return true;
}

bool Decoder::resolve_binary(const Input& input) {
  const std::uint64_t size = *input.binary_size;
  if (size > binary_.size()) {
    return refuse(message("unexpected size for ", input_name(input), for_model(),
                          ": binary_data_size is ", std::to_string(size), ", the body has ",
                          std::to_string(binary_.size()), " more bytes"));
  }
  const auto data = binary_.first(static_cast<std::size_t>(size));
  if (!accept(check_raw_data(context_, static_cast<std::uint32_t>(input.index), input.shape,
                             input.elements, data, "binary_data_size is "))) {
    return false;
  }
  binary_ = binary_.subspan(data.size());
  out_.inputs[input.index].view = {*input.dtype, input.shape, data.data(), data.size()};
  return true;
}

}  // namespace servolley::codec::oip
