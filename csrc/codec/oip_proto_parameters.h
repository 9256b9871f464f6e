#pragma once

#include "codec/infer.h"
#include "codec/oip_shared.h"
#include "codec/proto_reader.h"

namespace servolley::codec::oip {

// An entry of map<string, inference.InferParameter>.
struct ProtoParameter {
  enum class Kind : std::uint8_t { kNone, kBool, kInt64, kString, kDouble, kUint64 };

  std::string_view key;
  Kind kind = Kind::kNone;
  std::uint64_t number = 0;  // kBool, kInt64 (its bits) and kUint64
  std::string_view text;     // kString

  bool truth() const { return number != 0; }
  std::int64_t int64() const { return static_cast<std::int64_t>(number); }
};

Status read_parameter(proto::Reader entry, ProtoParameter& out);

// Applies a parameter of a request. Every occurrence of a key must be valid; the last one counts.
Status apply_parameter(const ProtoParameter& parameter, const DecodeContext& context,
                       InferRequest& out);

// The count of a 'classification' parameter.
Result<std::uint32_t> classification_count(const ProtoParameter& parameter);

// Takes in a 'shared_memory_...' parameter of an input or output; other keys are left alone.
Status apply_shared_parameter(const ProtoParameter& parameter, SharedParameters& out);

}  // namespace servolley::codec::oip
