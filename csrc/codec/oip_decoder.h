#pragma once

#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "codec/infer.h"
#include "codec/json_reader.h"
#include "codec/json_tensor.h"
#include "codec/messages.h"
#include "codec/oip_rules.h"
#include "codec/oip_shared.h"

namespace servolley::codec::oip {

inline constexpr std::size_t kNone = static_cast<std::size_t>(-1);

class Decoder {
 public:
  Decoder(std::string_view json, std::span<const std::byte> binary, const DecodeContext& context,
          InferRequest& out)
      : reader_(json),
        binary_(binary),
        context_(context),
        budget_(context.decoded_bytes_limit),
        out_(out) {}

  Status run() {
    if (document()) return {};
    return reader_.take_error();
  }

 private:
  struct Input {
    std::size_t index = kNone;
    std::optional<DType> dtype;
    Shape shape;
    bool has_shape = false;
    bool has_parameters = false;
    bool checked = false;  // name, datatype and shape agree with the signature
    const char* data = nullptr;
    bool data_read = false;
    SharedParameters shared;
    std::optional<std::uint64_t> binary_size;
    std::size_t elements = 0;
  };
  struct Output {
    std::size_t index = kNone;
    bool has_parameters = false;
    std::optional<bool> binary;
    std::uint32_t classification = 0;
    SharedParameters shared;
  };

  const Signature& signature() const { return context_.signature; }
  bool refuse(std::string text) { return reader_.fail(invalid_argument(std::move(text))); }
  bool refuse_instead(std::string text) {
    return reader_.fail_instead(invalid_argument(std::move(text)));
  }
  bool refuse_twice(std::string_view key) {
    return refuse(message("'", key, "' is given twice in one object"));
  }
  bool accept(Status status) { return status.ok() || reader_.fail(std::move(status)); }
  std::string for_model() const { return oip::for_model(context_.model); }
  std::string input_name(const Input& input) const {
    return input.index == kNone ? std::string("an input without a name")
                                : "input " + quoted(signature().inputs[input.index].name);
  }
  // "<who>: <what>, found <kind>".
  bool wrong_kind(std::string_view who, std::string_view what) {
    const JsonKind kind = reader_.peek();
    if (kind == JsonKind::kInvalid) return reader_.fail_syntax("expected a value");
    return refuse(message(who, " must be ", what, ", not ", json_kind_name(kind)));
  }
  // For messages that cost nothing until they are needed.
  bool expect(JsonKind kind, std::string_view who, std::string_view what) {
    return reader_.peek() == kind || wrong_kind(who, what);
  }
  bool expect(JsonKind kind, std::string_view part, const Input& input, std::string_view what) {
    return reader_.peek() == kind || wrong_kind(message(part, " of ", input_name(input)), what);
  }

  bool document();
  bool member(std::string_view key);
  bool inputs_complete();
  bool request_parameters();
  bool request_parameter(std::string_view key);
  bool parameter_uint64(std::string_view who, std::uint64_t& out);
  // Reads the value of a 'shared_memory_...' parameter; `*known` is whether the key is one.
  bool shared_parameter(std::string_view key, SharedParameters& out, bool& known);
  bool sequence_id();
  bool sequence_flag(std::string_view key);
  bool custom_parameter(std::string_view key);

  bool inputs();
  bool input();
  bool input_member(Input& input, std::string_view key);
  bool input_name_member(Input& input);
  bool shape(Input& input);
  bool input_parameters(Input& input);
  // Checks what does not depend on the data against the signature.
  bool check(Input& input);
  bool read_data(Input& input);
  bool resolve_input(Input& input);
  bool resolve_binary(const Input& input);

  bool outputs();
  bool output();
  bool output_member(Output& output, std::string_view key);
  bool output_parameters(Output& output);
  bool resolve_output(const Output& output);
  bool resolve_outputs();

  JsonReader reader_;
  std::span<const std::byte> binary_;  // what no input has taken yet
  const DecodeContext& context_;
  DecodeBudget budget_;
  InferRequest& out_;
  std::string scratch_;
  std::optional<OutputForm> default_form_;
  bool has_inputs_ = false;
  bool has_outputs_ = false;
  bool has_parameters_ = false;
  bool has_id_ = false;
};

}  // namespace servolley::codec::oip
