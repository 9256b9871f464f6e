#include "codec/proto_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

Signature two_inputs() {
  Signature s = signature(DType::kFp32, {-1, 2}, true);
  s.inputs.push_back(spec("b", DType::kBytes, {-1}));
  s.outputs.push_back(spec("z", DType::kBytes, {-1}));
  return s;
}

TEST_CASE("parameters of a request") {
  Codec codec(signature(DType::kFp32, {-1}));
  const std::string input = oip_input("x", "FP32", {1}) + raw_entry(raw<float>({1}));
  const auto with = [&](const std::string& key, const std::string& value) {
    return decode_oip(codec, input + parameter(key, value));
  };
  REQUIRE(with("priority", uint_param(3)).ok());
  CHECK(codec.request.priority == 3);
  REQUIRE(with("priority", int_param(4)).ok());
  CHECK(codec.request.priority == 4);
  REQUIRE(with("priority", uint_param(18446744073709551615u)).ok());
  REQUIRE(with("timeout", int_param(5000)).ok());
  CHECK(codec.request.timeout_us == 5000);
  REQUIRE(with("timeout", int_param(0)).ok());
  CHECK_FALSE(codec.request.timeout_us.has_value());
  REQUIRE(decode_oip(codec, input + parameter("timeout", int_param(5)) +
                                parameter("timeout", int_param(6)))
              .ok());
  CHECK(codec.request.timeout_us == 6);
  for (const std::string& value :
       {string_param("s"), int_param(-1), bool_param(true), double_param(1.5)}) {
    CHECK(with("anything", value).ok());
  }
  CHECK(with("binary_data_output", bool_param(false)).ok());
  CHECK(with("triton_enable_empty_final_response", bool_param(true)).ok());
  CHECK(with("sequence_id", int_param(0)).ok());
  CHECK(with("sequence_id", string_param("")).ok());
  CHECK(with("sequence_start", bool_param(false)).ok());
  // The last choice of a value counts.
  CHECK(with("priority", string_param("x") + uint_param(9)).ok());
  CHECK(codec.request.priority == 9);

  const auto refused = [&](const std::string& key, const std::string& value,
                           Code code = Code::kInvalidArgument) {
    CAPTURE(key);
    const Status status = with(key, value);
    CHECK(status.code() == code);
    return status.message();
  };
  refused("priority", int_param(-1));
  refused("priority", string_param("1"));
  refused("timeout", int_param(-1));
  refused("timeout", int_param(std::numeric_limits<std::int64_t>::min()));
  refused("timeout", uint_param(std::uint64_t{1} << 63));
  refused("timeout", string_param("1"));
  refused("anything", uint_param(1));
  refused("anything", "");
  refused("sequence_start", int_param(1));
  refused("sequence_id", bool_param(true));
  refused("triton_final_response", bool_param(true));
  refused("triton_x", string_param("y"));
  refused("triton_enable_empty_final_response", int_param(1));
  CHECK(contains(refused("sequence_id", int_param(7), Code::kUnimplemented), "sequences"));
  refused("sequence_id", string_param("s"), Code::kUnimplemented);
  refused("sequence_start", bool_param(true), Code::kUnimplemented);
  refused("sequence_end", bool_param(true), Code::kUnimplemented);
}

TEST_CASE("a million parameters take no memory") {
  Codec codec(signature(DType::kFp32, {-1}));
  std::string message = oip_input("x", "FP32", {1}) + raw_entry(raw<float>({1}));
  const std::string one = parameter("p", bool_param(true));
  message.reserve(message.size() + one.size() * 1'000'000);
  for (int i = 0; i < 1'000'000; ++i) message += one;
  CHECK(decode_oip(codec, message).ok());
  CHECK(codec.pool.stats().high_water_bytes <= 64);
}

TEST_CASE("requested outputs") {
  Signature s = two_inputs();
  s.inputs.pop_back();
  Codec codec(s);
  const std::string input = oip_input("x", "FP32", {1, 2}) + raw_entry(raw<float>({1, 2}));
  const auto output = [](const std::string& name, const std::string& parameters = "") {
    return bytes(6, bytes(1, name) + parameters);
  };
  const auto with = [&](const std::string& outputs) { return decode_oip(codec, input + outputs); };
  REQUIRE(with(output("z") + output("y", parameter("classification", int_param(3), 2))).ok());
  REQUIRE(codec.request.outputs.size() == 2);
  CHECK(codec.request.outputs[0].index == 1);
  CHECK(codec.request.outputs[1].index == 0);
  CHECK(codec.request.outputs[1].classification == 3);
  CHECK(with(output("y", parameter("binary_data", bool_param(false), 2))).ok());
  CHECK(codec.request.outputs[0].form == OutputForm::kBinary);
  CHECK(codec.request.outputs.size() == 1);

  const auto refused = [&](const std::string& outputs, Code code = Code::kInvalidArgument) {
    CHECK(with(outputs).code() == code);
  };
  refused(output("y") + output("y"));
  refused(output("nobody"));
  refused(output(""));
  refused(bytes(6, ""));
  for (const std::string& count : {int_param(0), int_param(-1), int_param(std::int64_t{1} << 40),
                                   uint_param(1), string_param("1"), std::string()}) {
    refused(output("y", parameter("classification", count, 2)));
  }
  refused(output("z", parameter("classification", int_param(1), 2)));
  const std::string region = parameter("shared_memory_region", string_param("r"), 2);
  refused(output("y", region), Code::kUnimplemented);
  refused(output("y", region + parameter("classification", int_param(1), 2)));
}

TEST_CASE("shared memory inputs where there is no shared memory") {
  Codec codec(signature(DType::kFp32, {-1}));
  const std::string region = parameter("shared_memory_region", string_param("r"));
  const Status status = decode_oip(codec, oip_input("x", "FP32", {1}, region));
  CHECK(status.code() == Code::kUnimplemented);
  CHECK(contains(status.message(), "shared memory is not supported: input 'x'"));
  CHECK(decode_oip(codec, oip_input("x", "FP32", {1}, region + contents(""))).code() ==
        Code::kInvalidArgument);
}

}  // namespace
}  // namespace servolley::codec
