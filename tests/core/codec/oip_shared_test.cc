// How both dialects of the Open Inference Protocol outline tensors in clients' shared memory. What
// is there, the engine's tests say.

#include "codec/oip_shared.h"

#include "codec/proto_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

constexpr std::uint64_t kLargest = std::numeric_limits<std::uint64_t>::max();

// A codec whose clients may use shared memory.
struct Shared {
  explicit Shared(Signature s) : codec(std::move(s)) { codec.shared_memory = true; }

  // The parameters in JSON.
  static std::string json(const std::string& bytes, const std::string& offset = "",
                          const std::string& region = R"("r")") {
    return R"({"shared_memory_region":)" + region +
           (bytes.empty() ? "" : R"(,"shared_memory_byte_size":)" + bytes) +
           (offset.empty() ? "" : R"(,"shared_memory_offset":)" + offset) + "}";
  }
  Status json_input(const std::string& dtype, const std::string& shape,
                    const std::string& parameters) {
    return codec.oip(R"({"inputs":[{"name":"x","datatype":")" + dtype + R"(","shape":)" + shape +
                     R"(,"parameters":)" + parameters + "}]}");
  }
  Status json_output(const std::string& parameters) {
    return codec.oip(R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1]}],)"
                     R"("outputs":[{"name":"y","parameters":)" +
                     parameters + "}]}");
  }
  // And as protobuf.
  static std::string proto(std::optional<std::int64_t> bytes,
                           std::optional<std::int64_t> offset = {}, const std::string& region = "r",
                           std::uint32_t field = 4) {
    return parameter("shared_memory_region", string_param(region), field) +
           (bytes ? parameter("shared_memory_byte_size", int_param(*bytes), field) : "") +
           (offset ? parameter("shared_memory_offset", int_param(*offset), field) : "");
  }

  Codec codec;
};

// The only input's data lies there.
void check_part(const InferRequest& request, const std::string& region, std::uint64_t offset,
                std::uint64_t bytes) {
  REQUIRE(request.shared_inputs.size() == 1);
  const SharedInput& shared = request.shared_inputs[0];
  CHECK(shared.part.region == region);
  CHECK(shared.part.offset == offset);
  CHECK(shared.part.bytes == bytes);
  const InputTensor& input = request.inputs[shared.index];
  CHECK(input.shared);
  CHECK_FALSE(input.owner);
  CHECK(input.view.data == nullptr);
  CHECK(input.view.bytes == bytes);
}

TEST_CASE("an input in shared memory is outlined, as JSON and as protobuf") {
  Shared shared(signature(DType::kFp32, {-1, 2}));
  REQUIRE(shared.json_input("FP32", "[2,2]", Shared::json("16", "100")).ok());
  CHECK(shared.codec.request.inputs[0].view.shape == Shape{2, 2});
  CHECK(shared.codec.request.uses_shared_memory());
  check_part(shared.codec.request, "r", 100, 16);
  REQUIRE(shared.json_input("FP32", "[1,2]", Shared::json("8", "", R"("a \u00e9")")).ok());
  check_part(shared.codec.request, "a \u00e9", 0, 8);

  REQUIRE(decode_oip(shared.codec, oip_input("x", "FP32", {2, 2}, Shared::proto(16, 100))).ok());
  check_part(shared.codec.request, "r", 100, 16);
  CHECK(shared.codec.pool.stats().allocations == 0);
  shared.codec.request.clear();
  CHECK_FALSE(shared.codec.request.uses_shared_memory());
}

TEST_CASE("the data of an input is checked once it is here") {
  Shared shared(signature(DType::kBytes, {-1}));
  const std::string data = packed({"a", "", "ccc"});
  const std::string size = std::to_string(data.size());
  const auto check = [&](const std::string& shape, const std::string& found) {
    REQUIRE(shared.json_input("BYTES", shape, Shared::json(size)).ok());
    InputTensor& input = shared.codec.request.inputs[0];
    input.view.data = bytes_of(found).data();
    return oip::check_shared_data(shared.codec.decode_context(), 0, input).code();
  };
  CHECK(check("[3]", data) == Code::kOk);
  CHECK(check("[2]", data) == Code::kInvalidArgument);
  CHECK(check("[4]", data) == Code::kInvalidArgument);
  CHECK(check("[3]", "\xff\xff\xff\x7f" + data.substr(4)) == Code::kInvalidArgument);
}

TEST_CASE("parts that can be in no region") {
  Shared shared(signature(DType::kFp32, {-1}));
  for (const auto& [bytes, offset] : std::vector<std::pair<std::string, std::string>>{
           {std::to_string(kLargest - 31), ""},
           {"8", "18446744073709551616"},
           {"-1", ""},
           {"8", "-4096"},
           {"8.0", ""},
           {R"("8")", ""},
           {"null", ""},
           {"4", ""},  // not what the shape takes
           {"12", ""},
           {"", "0"},  // no size
       }) {
    CAPTURE(bytes);
    CAPTURE(offset);
    CHECK(shared.json_input("FP32", "[2]", Shared::json(bytes, offset)).code() ==
          Code::kInvalidArgument);
  }
  CHECK(shared.json_input("FP32", "[2]", Shared::json("8", "", "3")).code() ==
        Code::kInvalidArgument);
  const auto proto = [&](const std::string& parameters) {
    return decode_oip(shared.codec, oip_input("x", "FP32", {2}, parameters)).code();
  };
  CHECK(proto(Shared::proto(8)) == Code::kOk);
  CHECK(proto(Shared::proto(-32)) == Code::kInvalidArgument);
  CHECK(proto(Shared::proto(8, -32)) == Code::kInvalidArgument);
  CHECK(proto(Shared::proto(std::numeric_limits<std::int64_t>::max(),
                            std::numeric_limits<std::int64_t>::max())) == Code::kInvalidArgument);
  CHECK(proto(Shared::proto({})) == Code::kInvalidArgument);
  CHECK(proto(parameter("shared_memory_region", int_param(1))) == Code::kInvalidArgument);
  CHECK(proto(parameter("shared_memory_region", string_param("r")) +
              parameter("shared_memory_byte_size", uint_param(8))) == Code::kInvalidArgument);
  CHECK(shared.codec.pool.stats().allocations == 0);
}

TEST_CASE("raw entries belong to the inputs that are not in shared memory") {
  Signature s = signature(DType::kFp32, {-1});
  s.inputs.push_back(spec("b", DType::kFp32, {-1}));
  s.inputs.push_back(spec("c", DType::kFp32, {-1}));
  Shared shared(s);
  const std::string a = oip_input("x", "FP32", {1});
  const std::string b = oip_input("b", "FP32", {1}, Shared::proto(4, 8));
  const std::string c = oip_input("c", "FP32", {1});
  const std::string one = raw_entry(raw<float>({1}));
  const std::string two = raw_entry(raw<float>({2}));
  const auto value = [&](std::size_t i) { return data_of(shared.codec.request.inputs[i].view); };
  for (const std::string& inputs : {a + b + c, b + a + c, a + c + b}) {
    REQUIRE(decode_oip(shared.codec, inputs + one + two).ok());
    CHECK(value(0) == raw<float>({1}));
    check_part(shared.codec.request, "r", 8, 4);
    CHECK(shared.codec.request.shared_inputs[0].index == 1);
    CHECK(value(2) == raw<float>({2}));
  }
  CHECK(decode_oip(shared.codec, a + b + c + one).code() == Code::kInvalidArgument);
  CHECK(decode_oip(shared.codec, a + b + c + one + two + two).code() == Code::kInvalidArgument);
  CHECK(decode_oip(shared.codec, a + b + c).code() == Code::kInvalidArgument);
  CHECK(decode_oip(shared.codec, a + b + b + c + one + two).code() == Code::kInvalidArgument);
}

TEST_CASE("the answer says where an output in shared memory is") {
  Shared shared(signature(DType::kFp32, {-1}));
  const std::string data = raw<float>({7, 8});
  const OutputView output{view_of(DType::kFp32, {2}, data), nullptr};
  REQUIRE(shared.json_output(Shared::json("100", "64")).ok());
  const auto info = encode_oip_json(shared.codec.request, {&output, 1},
                                    shared.codec.encode_context(), shared.codec.payload);
  REQUIRE(info.has_value());
  CHECK(info->json_length == 0);
  CHECK(text_of(shared.codec.payload) ==
        R"({"model_name":"m","model_version":"3","outputs":[{"name":"y","datatype":"FP32",)"
        R"("shape":[2],"parameters":{"shared_memory_region":"r","shared_memory_offset":64,)"
        R"("shared_memory_byte_size":8}}]})");

  const std::string request = oip_input("x", "FP32", {1}) + raw_entry(raw<float>({1})) +
                              bytes(6, bytes(1, "y") + Shared::proto(8, {}, "r", 2));
  REQUIRE(decode_oip(shared.codec, request).ok());
  shared.codec.payload.clear();
  REQUIRE(encode_oip_proto(shared.codec.request, {&output, 1}, shared.codec.encode_context(), false,
                           shared.codec.payload)
              .ok());
  const OipAnswer answer = read_oip_answer(text_of(shared.codec.payload));
  REQUIRE(answer.outputs.size() == 1);
  CHECK(answer.outputs[0].shape == std::vector<std::int64_t>{2});
  CHECK(answer.outputs[0].parameters ==
        bytes(1, "shared_memory_region") + bytes(2, string_param("r")) +
            bytes(1, "shared_memory_byte_size") + bytes(2, int_param(8)));
  REQUIRE(answer.raw.size() == 1);
  CHECK(answer.raw[0].empty());
}

TEST_CASE("a large output in shared memory and one in the answer") {
  Signature s = signature(DType::kFp32, {-1});
  s.outputs.push_back(spec("z", DType::kUint8, {-1}));
  Shared shared(s);
  const std::string data = raw<float>({7, 8});
  constexpr std::size_t kLarge = 4096;
  const std::string large(kLarge, 'z');
  const OutputView outputs[] = {{view_of(DType::kFp32, {2}, data), nullptr},
                                {view_of(DType::kUint8, {kLarge}, large), nullptr}};
  const std::string request = oip_input("x", "FP32", {1}) + raw_entry(raw<float>({1})) +
                              bytes(6, bytes(1, "z") + Shared::proto(kLarge, {}, "r", 2)) +
                              bytes(6, bytes(1, "y"));
  REQUIRE(decode_oip(shared.codec, request).ok());
  REQUIRE(encode_oip_proto(shared.codec.request, outputs, shared.codec.encode_context(), true,
                           shared.codec.payload)
              .ok());
  const OipAnswer answer = read_oip_answer(text_of(shared.codec.payload));
  REQUIRE(answer.raw.size() == 2);
  CHECK(answer.raw[0].empty());
  CHECK(answer.raw[1] == data);
}

TEST_CASE("impossible parts for an output") {
  Shared shared(signature(DType::kFp32, {-1}));
  for (const std::string bytes : {"", "-8", "8.0"}) {
    CAPTURE(bytes);
    CHECK(shared.json_output(Shared::json(bytes)).code() == Code::kInvalidArgument);
  }
  REQUIRE(shared.json_output(Shared::json("7", "4096")).ok());
  REQUIRE(shared.codec.request.shared_outputs.size() == 1);
  CHECK(shared.codec.request.shared_outputs[0].region == "r");
  CHECK(shared.codec.request.shared_outputs[0].offset == 4096);
  CHECK(shared.codec.request.shared_outputs[0].bytes == 7);
}

TEST_CASE("without shared memory every use of it says so") {
  Shared shared(signature(DType::kFp32, {-1}));
  shared.codec.shared_memory = false;
  CHECK(shared.json_input("FP32", "[1]", Shared::json("4")).code() == Code::kUnimplemented);
  CHECK(shared.json_output(Shared::json("4")).code() == Code::kUnimplemented);
}

}  // namespace
}  // namespace servolley::codec
