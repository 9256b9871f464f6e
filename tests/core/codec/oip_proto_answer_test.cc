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

TEST_CASE("an answer lists its outputs and carries their bytes in one segment") {
  Codec codec(two_inputs());
  codec.request.id = "r";
  codec.request.outputs = {{.index = 1, .form = OutputForm::kBinary, .classification = 0},
                           {.index = 0, .form = OutputForm::kBinary, .classification = 0}};
  const std::string floats = raw<float>({1, 2, 3, 4});
  const OutputView outputs[] = {{view_of(DType::kFp32, {2, 2}, floats), nullptr},
                                {view_of(DType::kBytes, {0}, ""), nullptr}};
  REQUIRE(
      encode_oip_proto(codec.request, outputs, codec.encode_context(), false, codec.payload).ok());
  CHECK(codec.payload.segments().size() == 1);
  const OipAnswer answer = read_oip_answer(text_of(codec.payload));
  CHECK(answer.model == "m");
  CHECK(answer.version == "3");
  CHECK(answer.id == "r");
  CHECK(answer.parameters.empty());
  REQUIRE(answer.outputs.size() == 2);
  CHECK(answer.outputs[0].name == "z");
  CHECK(answer.outputs[0].datatype == "BYTES");
  CHECK(answer.outputs[0].shape == std::vector<std::int64_t>{0});
  CHECK(answer.outputs[1].name == "y");
  CHECK(answer.outputs[1].shape == std::vector<std::int64_t>{2, 2});
  REQUIRE(answer.raw.size() == 2);
  CHECK(answer.raw[0].empty());
  CHECK(answer.raw[1] == floats);
}

TEST_CASE("large outputs are sent from where they lie") {
  for (const std::size_t floats : {1024u, 1025u, 40'000u}) {
    Signature s = signature(DType::kFp32, {-1});
    s.outputs.push_back(spec("z", DType::kFp32, {-1}));
    Codec codec(s);
    for (std::uint32_t i : {0u, 1u}) {
      codec.request.outputs.push_back(
          {.index = i, .form = OutputForm::kBinary, .classification = 0});
    }
    Buffer owner = std::move(*codec.pool.allocate(floats * 4));
    std::memset(owner.data(), 7, floats * 4);
    const OutputView output{
        {DType::kFp32, {static_cast<std::int64_t>(floats)}, owner.data(), floats * 4}, &owner};
    const OutputView outputs[] = {output, output};
    REQUIRE(encode_oip_proto(codec.request, outputs, codec.encode_context(), false, codec.payload)
                .ok());
    const bool viewed = floats * 4 > 4096;
    CHECK(codec.payload.segments().size() == (viewed ? 4 : 1));
    if (viewed) {
      CHECK(codec.payload.segments()[1].data == owner.data());
      CHECK(codec.payload.segments()[3].data == owner.data());
      CHECK_FALSE(owner.unique());
    }
    const OipAnswer answer = read_oip_answer(text_of(codec.payload));
    REQUIRE(answer.raw.size() == 2);
    CHECK(answer.raw[0] == std::string(floats * 4, '\7'));
    CHECK(answer.raw[1] == answer.raw[0]);
    codec.payload.clear();
    CHECK(owner.unique());
  }
}

TEST_CASE("classes in an answer") {
  Signature s = signature(DType::kFp32, {-1, 3}, true);
  s.outputs[0].labels = {"cat", "dog", "owl"};
  Codec codec(s);
  codec.request.outputs = {{.index = 0, .form = OutputForm::kBinary, .classification = 2}};
  const std::string floats = raw<float>({0.5, 2, 1, 9, 8, 7});
  const OutputView output{view_of(DType::kFp32, {2, 3}, floats), nullptr};
  REQUIRE(
      encode_oip_proto(codec.request, {&output, 1}, codec.encode_context(), false, codec.payload)
          .ok());
  const OipAnswer answer = read_oip_answer(text_of(codec.payload));
  REQUIRE(answer.outputs.size() == 1);
  CHECK(answer.outputs[0].datatype == "BYTES");
  CHECK(answer.outputs[0].shape == std::vector<std::int64_t>{2, 2});
  CHECK(answer.raw[0] ==
        packed({"2.000000:1:dog", "1.000000:2:owl", "9.000000:0:cat", "8.000000:1:dog"}));
}

const std::string& final_parameter() {
  static const std::string entry = bytes(1, "triton_final_response") + bytes(2, bool_param(true));
  return entry;
}

TEST_CASE("streamed answers") {
  for (const std::int64_t floats : {2, 2000}) {
    Codec codec(signature(DType::kFp32, {-1}));
    codec.request.outputs = {{.index = 0, .form = OutputForm::kBinary, .classification = 0}};
    const std::string data(static_cast<std::size_t>(floats) * 4, '\3');
    const OutputView output{view_of(DType::kFp32, {floats}, data), nullptr};
    REQUIRE(
        encode_oip_proto(codec.request, {&output, 1}, codec.encode_context(), true, codec.payload)
            .ok());
    CHECK(read_oip_answer(text_of(codec.payload)).parameters == final_parameter());
    const std::size_t size = codec.payload.size();
    REQUIRE(prepend_stream_envelope(codec.payload, codec.pool).ok());
    const std::string message = text_of(codec.payload);
    CHECK(codec.payload.size() == message.size());
    CHECK(message.size() > size);
    pbf_reader reader(message);
    REQUIRE(reader.next(2));
    CHECK(read_oip_answer(reader.get_string()).raw == std::vector<std::string>{data});
    CHECK_FALSE(reader.next());
  }
}

TEST_CASE("streamed errors") {
  Codec codec(signature(DType::kFp32, {-1}));
  REQUIRE(
      encode_oip_stream_error("bad \xff\xc3\xa9", "m", "4", "r7", codec.pool, codec.payload).ok());
  const std::string message = text_of(codec.payload);
  pbf_reader reader(message);
  REQUIRE(reader.next(1));
  CHECK(reader.get_string() == "bad ?\xc3\xa9");
  REQUIRE(reader.next(2));
  const OipAnswer answer = read_oip_answer(reader.get_string());
  CHECK(answer.model == "m");
  CHECK(answer.version == "4");
  CHECK(answer.id == "r7");
  CHECK(answer.parameters == final_parameter());
  CHECK_FALSE(reader.next());
}

}  // namespace
}  // namespace servolley::codec
