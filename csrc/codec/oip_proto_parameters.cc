#include "codec/oip_proto_parameters.h"

#include <limits>

#include "codec/oip_rules.h"

namespace servolley::codec::oip {
namespace {

using Kind = ProtoParameter::Kind;
using proto::Reader;

std::string_view kind_name(Kind kind) {
  switch (kind) {
    case Kind::kNone:
      return "nothing";
    case Kind::kBool:
      return "bool_param";
    case Kind::kInt64:
      return "int64_param";
    case Kind::kString:
      return "string_param";
    case Kind::kDouble:
      return "double_param";
    case Kind::kUint64:
      return "uint64_param";
  }
  return "nothing";
}

Status wrong_kind(const ProtoParameter& parameter, std::string_view expected) {
  return invalid_argument(message("parameter ", quoted(parameter.key), " must be ", expected,
                                  ", not ", kind_name(parameter.kind)));
}

Status must_not_be_negative(const ProtoParameter& parameter) {
  return invalid_argument(message("parameter ", quoted(parameter.key), " must not be negative"));
}

Status read_value(Reader reader, ProtoParameter& out) {
  while (reader.next()) {
    switch (reader.tag_and_type()) {
      case proto::varint_field(1):
        out.kind = Kind::kBool;
        out.number = reader.get_uint64();
        break;
      case proto::varint_field(2):
        out.kind = Kind::kInt64;
        out.number = reader.get_uint64();
        break;
      case proto::bytes_field(3):
        out.kind = Kind::kString;
        SERVOLLEY_TRY(proto::take_text(reader, "string_param", out.text));
        break;
      case proto::fixed64_field(4):
        out.kind = Kind::kDouble;
        reader.skip();
        break;
      case proto::varint_field(5):
        out.kind = Kind::kUint64;
        out.number = reader.get_uint64();
        break;
      default:
        reader.skip();
    }
  }
  return {};
}

Status sequence_id(const ProtoParameter& parameter, const DecodeContext& context) {
  switch (parameter.kind) {
    case Kind::kInt64:
    case Kind::kUint64:
      return parameter.number == 0 ? Status() : no_sequences(context);
    case Kind::kString:
      return parameter.text.empty() ? Status() : no_sequences(context);
    default:
      return wrong_kind(parameter, "an int64_param or a string_param");
  }
}

}  // namespace

Status read_parameter(Reader entry, ProtoParameter& out) {
  while (entry.next()) {
    switch (entry.tag_and_type()) {
      case proto::bytes_field(1):
        SERVOLLEY_TRY(proto::take_text(entry, "parameters", out.key));
        break;
      case proto::bytes_field(2):
        SERVOLLEY_TRY(read_value(entry.get_message(), out));
        break;
      default:
        entry.skip();
    }
  }
  return {};
}

Status apply_parameter(const ProtoParameter& parameter, const DecodeContext& context,
                       InferRequest& out) {
  const std::string_view key = parameter.key;
  if (key == "priority") {
    if (parameter.kind != Kind::kInt64 && parameter.kind != Kind::kUint64) {
      return wrong_kind(parameter, "a uint64_param or an int64_param");
    }
    if (parameter.kind == Kind::kInt64 && parameter.int64() < 0) {
      return must_not_be_negative(parameter);
    }
    out.priority = parameter.number;
    return {};
  }
  if (key == "timeout") {
    if (parameter.kind != Kind::kInt64) return wrong_kind(parameter, "an int64_param");
    if (parameter.int64() < 0) return must_not_be_negative(parameter);
    // 0 asks for no timeout of the request's own, as in Triton.
    out.timeout_us.reset();
    if (parameter.number != 0) out.timeout_us = parameter.number;
    return {};
  }
  if (key == "sequence_id") return sequence_id(parameter, context);
  if (key == "sequence_start" || key == "sequence_end") {
    if (parameter.kind != Kind::kBool) return wrong_kind(parameter, "a bool_param");
    return parameter.truth() ? no_sequences(context) : Status();
  }
  if (key == "triton_enable_empty_final_response") {
    return parameter.kind == Kind::kBool ? Status() : wrong_kind(parameter, "a bool_param");
  }
  if (key.starts_with("triton_")) return reserved_parameter(key);
  if (parameter.kind == Kind::kNone || parameter.kind == Kind::kUint64) {
    return wrong_kind(parameter, "a string_param, an int64_param, a bool_param or a double_param");
  }
  return {};
}

Result<std::uint32_t> classification_count(const ProtoParameter& parameter) {
  if (parameter.kind != Kind::kInt64) return wrong_kind(parameter, "an int64_param");
  if (parameter.int64() < 1 || parameter.number > std::numeric_limits<std::uint32_t>::max()) {
    return bad_classification();
  }
  return static_cast<std::uint32_t>(parameter.number);
}

Status apply_shared_parameter(const ProtoParameter& parameter, SharedParameters& out) {
  if (parameter.key == "shared_memory_region") {
    if (parameter.kind != Kind::kString) return wrong_kind(parameter, "a string_param");
    out.region = parameter.text;
    out.given = true;
    return {};
  }
  const bool is_offset = parameter.key == "shared_memory_offset";
  if (!is_offset && parameter.key != "shared_memory_byte_size") return {};
  if (parameter.kind != Kind::kInt64) return wrong_kind(parameter, "an int64_param");
  if (parameter.int64() < 0) return must_not_be_negative(parameter);
  (is_offset ? out.offset : out.bytes) = parameter.number;
  return {};
}

}  // namespace servolley::codec::oip
