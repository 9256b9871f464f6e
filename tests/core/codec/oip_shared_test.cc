// Tensors in clients' shared memory, through both dialects of the Open Inference Protocol.

#include "codec/oip_shared.h"

#include "codec/proto_fixture.h"
#include "shm/objects.h"

namespace servolley::codec {
namespace {

using namespace testing;
using shm::Regions;
using shm::testing::Object;

constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kLargest = std::numeric_limits<std::uint64_t>::max();

// A codec whose client has registered the region "r", one page.
struct Shared {
  explicit Shared(Signature s, std::size_t limit = kLimit) : codec(std::move(s), limit) {
    REQUIRE(regions.add("r", object.key(), 0, kPage).ok());
    codec.regions = &regions;
  }

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

  Object object{kPage};
  Regions regions{{.regions = 4, .bytes = 1 << 20}};
  Codec codec;
};

TEST_CASE("an input out of shared memory, as JSON and as protobuf") {
  Shared shared(signature(DType::kFp32, {-1, 2}));
  const std::string data = raw<float>({1, 2, 3, 4});
  shared.object.put(100, data);
  REQUIRE(shared.json_input("FP32", "[2,2]", Shared::json("16", "100")).ok());
  const InputTensor& input = shared.codec.request.inputs[0];
  CHECK(input.owner);
  CHECK(input.view.shape == Shape{2, 2});
  CHECK(data_of(input.view) == data);

  REQUIRE(decode_oip(shared.codec, oip_input("x", "FP32", {2, 2}, Shared::proto(16, 100))).ok());
  CHECK(data_of(shared.codec.request.inputs[0].view) == data);
  // The copy is ours: the client goes on with its memory.
  shared.object.put(100, "changed!");
  CHECK(data_of(shared.codec.request.inputs[0].view) == data);
}

TEST_CASE("BYTES out of shared memory are checked") {
  Shared shared(signature(DType::kBytes, {-1}));
  const std::string data = packed({"a", "", "ccc"});
  shared.object.put(0, data);
  const std::string size = std::to_string(data.size());
  REQUIRE(shared.json_input("BYTES", "[3]", Shared::json(size)).ok());
  CHECK(data_of(shared.codec.request.inputs[0].view) == data);
  CHECK(shared.json_input("BYTES", "[2]", Shared::json(size)).code() == Code::kInvalidArgument);
  CHECK(shared.json_input("BYTES", "[4]", Shared::json(size)).code() == Code::kInvalidArgument);
  shared.object.put(0, "\xff\xff\xff\x7f");
  CHECK(shared.json_input("BYTES", "[3]", Shared::json(size)).code() == Code::kInvalidArgument);
}

TEST_CASE("hostile parts of a region are refused before memory is taken") {
  Shared shared(signature(DType::kFp32, {-1}));
  const std::string wrap = std::to_string(kLargest - 31);
  for (const auto& [bytes, offset] : std::vector<std::pair<std::string, std::string>>{
           {"8", "4096"},  // begins at the end
           {"8", "4092"},  // reaches behind it
           {"8", wrap},    // offset 2^64-32
           {wrap, ""},     // size 2^64-32
           {wrap, wrap},   // whose sum wraps
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
  // A shape that agrees with a size beyond all memory.
  CHECK(shared.json_input("FP32", "[4611686018427387896]", Shared::json(wrap)).code() ==
        Code::kInvalidArgument);
  for (const char* const region : {R"("s")", R"("")", R"("r\u0000")"}) {
    CHECK(shared.json_input("FP32", "[2]", Shared::json("8", "", region)).code() ==
          Code::kNotFound);
  }
  CHECK(shared.json_input("FP32", "[2]", Shared::json("8", "", "3")).code() ==
        Code::kInvalidArgument);
  const auto proto = [&](const std::string& parameters) {
    return decode_oip(shared.codec, oip_input("x", "FP32", {2}, parameters)).code();
  };
  CHECK(proto(Shared::proto(8)) == Code::kOk);
  CHECK(proto(Shared::proto(8, 4096)) == Code::kInvalidArgument);
  CHECK(proto(Shared::proto(-32)) == Code::kInvalidArgument);
  CHECK(proto(Shared::proto(8, -32)) == Code::kInvalidArgument);
  CHECK(proto(Shared::proto(std::numeric_limits<std::int64_t>::max(),
                            std::numeric_limits<std::int64_t>::max())) == Code::kInvalidArgument);
  CHECK(proto(Shared::proto({})) == Code::kInvalidArgument);
  CHECK(proto(Shared::proto(8, 0, "s")) == Code::kNotFound);
  CHECK(proto(parameter("shared_memory_region", int_param(1))) == Code::kInvalidArgument);
  CHECK(proto(parameter("shared_memory_region", string_param("r")) +
              parameter("shared_memory_byte_size", uint_param(8))) == Code::kInvalidArgument);
  CHECK(shared.codec.pool.stats().high_water_bytes < 4096);
}

TEST_CASE("inputs out of shared memory count as decoded bytes") {
  Shared shared(signature(DType::kUint8, {-1}), 1000);
  CHECK(shared.json_input("UINT8", "[1000]", Shared::json("1000")).ok());
  CHECK(shared.json_input("UINT8", "[1001]", Shared::json("1001")).code() == Code::kTooLarge);
}

TEST_CASE("an object that was shortened fails the request") {
  Shared shared(signature(DType::kUint8, {-1}));
  shared.object.resize(100);
  CHECK(shared.json_input("UINT8", "[100]", Shared::json("100")).ok());
  CHECK(shared.json_input("UINT8", "[101]", Shared::json("101")).code() == Code::kInvalidArgument);
}

TEST_CASE("raw entries belong to the inputs that are not in shared memory") {
  Signature s = signature(DType::kFp32, {-1});
  s.inputs.push_back(spec("b", DType::kFp32, {-1}));
  s.inputs.push_back(spec("c", DType::kFp32, {-1}));
  Shared shared(s);
  shared.object.put(8, raw<float>({5}));
  const std::string a = oip_input("x", "FP32", {1});
  const std::string b = oip_input("b", "FP32", {1}, Shared::proto(4, 8));
  const std::string c = oip_input("c", "FP32", {1});
  const std::string one = raw_entry(raw<float>({1}));
  const std::string two = raw_entry(raw<float>({2}));
  REQUIRE(decode_oip(shared.codec, a + b + c + one + two).ok());
  const auto value = [&](std::size_t i) { return data_of(shared.codec.request.inputs[i].view); };
  CHECK(value(0) == raw<float>({1}));
  CHECK(value(1) == raw<float>({5}));
  CHECK(value(2) == raw<float>({2}));
  REQUIRE(decode_oip(shared.codec, b + a + c + one + two).ok());
  CHECK(value(2) == raw<float>({2}));
  REQUIRE(decode_oip(shared.codec, a + c + b + one + two).ok());
  CHECK(value(1) == raw<float>({5}));
  CHECK(decode_oip(shared.codec, a + b + c + one).code() == Code::kInvalidArgument);
  CHECK(decode_oip(shared.codec, a + b + c + one + two + two).code() == Code::kInvalidArgument);
  CHECK(decode_oip(shared.codec, a + b + c).code() == Code::kInvalidArgument);
}

TEST_CASE("an output goes into shared memory, and the answer says where") {
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
  CHECK(shared.object.get(64, 8) == data);

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
  CHECK(shared.object.get(0, 8) == data);
}

TEST_CASE("a large output in shared memory and one in the answer") {
  Signature s = signature(DType::kFp32, {-1});
  s.outputs.push_back(spec("z", DType::kUint8, {-1}));
  Shared shared(s);
  const std::string data = raw<float>({7, 8});
  const std::string large(kPage, 'z');
  const OutputView outputs[] = {{view_of(DType::kFp32, {2}, data), nullptr},
                                {view_of(DType::kUint8, {kPage}, large), nullptr}};
  const std::string request = oip_input("x", "FP32", {1}) + raw_entry(raw<float>({1})) +
                              bytes(6, bytes(1, "z") + Shared::proto(kPage, {}, "r", 2)) +
                              bytes(6, bytes(1, "y"));
  REQUIRE(decode_oip(shared.codec, request).ok());
  REQUIRE(encode_oip_proto(shared.codec.request, outputs, shared.codec.encode_context(), true,
                           shared.codec.payload)
              .ok());
  const OipAnswer answer = read_oip_answer(text_of(shared.codec.payload));
  REQUIRE(answer.raw.size() == 2);
  CHECK(answer.raw[0].empty());
  CHECK(answer.raw[1] == data);
  CHECK(shared.object.get(0, kPage) == large);
}

TEST_CASE("outputs that do not fit their shared memory are an error") {
  Shared shared(signature(DType::kFp32, {-1}));
  for (const auto& [bytes, offset] : std::vector<std::pair<std::string, std::string>>{
           {"", ""}, {"8", "4096"}, {"4097", ""}, {std::to_string(kLargest - 31), "64"}}) {
    CAPTURE(bytes);
    CHECK(shared.json_output(Shared::json(bytes, offset)).code() == Code::kInvalidArgument);
  }
  CHECK(shared.json_output(Shared::json("8", "", R"("s")")).code() == Code::kNotFound);
  REQUIRE(shared.json_output(Shared::json("7")).ok());
  const std::string data = raw<float>({7, 8});
  const OutputView output{view_of(DType::kFp32, {2}, data), nullptr};
  const auto encode = [&] {
    shared.codec.payload.clear();
    return encode_oip_json(shared.codec.request, {&output, 1}, shared.codec.encode_context(),
                           shared.codec.payload);
  };
  CHECK(encode().error().code() == Code::kInvalidArgument);
  CHECK(encode_oip_proto(shared.codec.request, {&output, 1}, shared.codec.encode_context(), false,
                         shared.codec.payload)
            .code() == Code::kInvalidArgument);
  CHECK(shared.object.get(0, 8) == std::string(8, '\0'));
  REQUIRE(shared.json_output(Shared::json("8")).ok());
  shared.object.resize(4);
  CHECK(encode().error().code() == Code::kInvalidArgument);
}

TEST_CASE("a request keeps the region that its output goes to") {
  Shared shared(signature(DType::kFp32, {-1}));
  REQUIRE(shared.json_output(Shared::json("4")).ok());
  shared.regions.remove("r");
  CHECK(shared.regions.usage().regions == 1);
  const std::string data = raw<float>({7});
  const OutputView output{view_of(DType::kFp32, {1}, data), nullptr};
  REQUIRE(encode_oip_json(shared.codec.request, {&output, 1}, shared.codec.encode_context(),
                          shared.codec.payload)
              .has_value());
  CHECK(shared.object.get(0, 4) == data);
  shared.codec.request.clear();
  CHECK(shared.regions.usage().regions == 0);
}

TEST_CASE("without shared memory every use of it says so") {
  Shared shared(signature(DType::kFp32, {-1}));
  shared.codec.regions = nullptr;
  CHECK(shared.json_input("FP32", "[1]", Shared::json("4")).code() == Code::kUnimplemented);
  CHECK(shared.json_output(Shared::json("4")).code() == Code::kUnimplemented);
}

}  // namespace
}  // namespace servolley::codec
