#include "codec/codec_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

const std::string kHead = R"({"inputs":[{"name":"x","shape":[2,2],"datatype":"FP32",)";

TEST_CASE("a binary input is a view of the body, a binary output a view of its buffer") {
  Codec codec(signature(DType::kFp32, {-1, 2}, true));
  const std::string data = raw<float>({1, 2, 3, 4});
  const std::string json =
      kHead + R"("parameters":{"binary_data_size":16}}],"parameters":{"binary_data_output":true}})";
  REQUIRE(codec.oip_binary(json, data).ok());
  const InputTensor& input = codec.request.inputs[0];
  CHECK(!input.owner);
  CHECK(reinterpret_cast<const char*>(input.view.data) == codec.body.data() + json.size());
  CHECK(data_of(input.view) == data);
  CHECK(input.view.shape == Shape{2, 2});
  REQUIRE(codec.request.outputs.size() == 1);
  CHECK(codec.request.outputs[0].form == OutputForm::kBinary);

  Buffer owner = std::move(*codec.pool.allocate(16));
  std::memcpy(owner.data(), data.data(), 16);
  const OutputView output{{DType::kFp32, {2, 2}, owner.data(), 16}, &owner};
  const auto info =
      encode_oip_json(codec.request, {&output, 1}, codec.encode_context(), codec.payload);
  REQUIRE(info.has_value());
  const std::string expected =
      R"({"model_name":"m","model_version":"3","outputs":[{"name":"y","datatype":"FP32",)"
      R"("shape":[2,2],"parameters":{"binary_data_size":16}}]})";
  CHECK(info->json_length == expected.size());
  CHECK(text_of(codec.payload) == expected + data);
  CHECK(codec.payload.segments().back().data == owner.data());
  CHECK(!owner.unique());
  codec.payload.clear();
  CHECK(owner.unique());
}

}  // namespace
}  // namespace servolley::codec
