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

TEST_CASE("binary inputs of every datatype") {
  for (std::size_t i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    CAPTURE(oip_name(dtype));
    Codec codec(signature(dtype, {-1, 3}));
    const std::string data = dtype == DType::kBytes
                                 ? packed({"", "a", std::string("\0\xff", 2), "dd", "e", ""})
                                 : std::string(6 * element_size(dtype), '\x07');
    const std::string json =
        R"({"inputs":[{"name":"x","shape":[2,3],"datatype":")" + std::string(oip_name(dtype)) +
        R"(","parameters":{"binary_data_size":)" + std::to_string(data.size()) +
        R"(}}],"outputs":[{"name":"y","parameters":{"binary_data":true}}]})";
    REQUIRE(codec.oip_binary(json, data).ok());
    CHECK(data_of(codec.request.inputs[0].view) == data);
    CHECK(codec.request.inputs[0].view.dtype == dtype);

    const OutputView output{view_of(dtype, {2, 3}, data), nullptr};
    const auto info =
        encode_oip_json(codec.request, {&output, 1}, codec.encode_context(), codec.payload);
    REQUIRE(info.has_value());
    CHECK(text_of(codec.payload).substr(info->json_length) == data);
  }
}

TEST_CASE("binary data must have the size that shape and body say") {
  Codec codec(signature(DType::kFp32, {-1, 2}, true));
  const std::string data(16, '\0');
  const auto with = [&](const std::string& size, const std::string& binary) {
    return codec.oip_binary(kHead + "\"parameters\":{\"binary_data_size\":" + size + "}}]}",
                            binary);
  };
  CHECK(with("16", data).ok());
  for (const char* size : {"15", "17", "0", "9223372036854775808", "18446744073709551616", "-1",
                           "\"16\"", "16.0", "true", "null", "[16]"}) {
    CAPTURE(size);
    CHECK(with(size, data).code() == Code::kInvalidArgument);
  }
  CHECK(contains(with("16", data.substr(1)).message(), "unexpected size for input 'x'"));
  CHECK(contains(with("16", data + "x").message(), "unexpected additional input data"));
  CHECK(contains(with("16,\"binary_data_size\":16", data).message(), "given twice"));
}

TEST_CASE("packed BYTES are checked to the last byte") {
  Codec codec(signature(DType::kBytes, {2}));
  const auto with = [&](const std::string& binary) {
    return codec.oip_binary(R"({"inputs":[{"name":"x","shape":[2],"datatype":"BYTES",)"
                            R"("parameters":{"binary_data_size":)" +
                                std::to_string(binary.size()) + "}}]}",
                            binary);
  };
  const std::string good = packed({"hello", ""});
  REQUIRE(with(good).ok());
  for (std::size_t cut = 1; cut <= good.size(); ++cut) {
    CHECK(contains(with(good.substr(0, good.size() - cut)).message(), "unexpected size"));
  }
  CHECK(contains(with(good + "x").message(), "bytes behind element 2"));
  CHECK(contains(with(packed({"a", "b", "c"})).message(), "bytes behind element 2"));
  CHECK(!with(std::string("\xff\xff\xff\xff", 4)).ok());
  CHECK(!with("\xff\xff\xff\x7fgood").ok());
}

TEST_CASE("binary and JSON inputs mix; the bytes follow the order of the request") {
  Signature s;
  for (const char* name : {"a", "b", "c"}) s.inputs.push_back(spec(name, DType::kUint8, {-1}));
  s.outputs.push_back(spec("y", DType::kUint8, {-1}));
  Codec codec(s);
  REQUIRE(codec
              .oip_binary(R"({"inputs":[
    {"parameters":{"binary_data_size":2},"datatype":"UINT8","shape":[2],"name":"c"},
    {"name":"b","shape":[1],"datatype":"UINT8","data":[7]},
    {"name":"a","shape":[3],"datatype":"UINT8","parameters":{"binary_data_size":3}}]})",
                          "ccaaa")
              .ok());
  CHECK(data_of(codec.request.inputs[0].view) == "aaa");
  CHECK(data_of(codec.request.inputs[1].view) == "\7");
  CHECK(data_of(codec.request.inputs[2].view) == "cc");
}

TEST_CASE("Inference-Header-Content-Length beyond the body") {
  Codec codec(signature(DType::kFp32, {-1, 2}, true));
  for (const std::uint64_t length : {std::uint64_t{1000}, std::uint64_t{99999999999},
                                     std::numeric_limits<std::uint64_t>::max()}) {
    CHECK(codec.oip("{}", length).code() == Code::kInvalidArgument);
  }
  CHECK(!codec.oip("{} ", 1).ok());
}

TEST_CASE("zero-size tensors, and the header that must then be absent") {
  Codec codec(signature(DType::kFp32, {-1, 2}, true));
  REQUIRE(codec
              .oip_binary(R"({"inputs":[{"name":"x","shape":[0,2],"datatype":"FP32",)"
                          R"("parameters":{"binary_data_size":0}}],)"
                          R"("parameters":{"binary_data_output":true}})",
                          "")
              .ok());
  CHECK(codec.request.inputs[0].view.bytes == 0);
  const OutputView output{{DType::kFp32, {0, 2}, nullptr, 0}, nullptr};
  const auto info =
      encode_oip_json(codec.request, {&output, 1}, codec.encode_context(), codec.payload);
  REQUIRE(info.has_value());
  CHECK(info->json_length == 0);
  CHECK(contains(text_of(codec.payload), R"("parameters":{"binary_data_size":0})"));
}

TEST_CASE("a raw binary request takes its shape from its size") {
  const auto shape_of = [](Signature s, const std::string& body) {
    Codec codec(std::move(s));
    const Status status = codec.oip(body, 0);
    if (!status.ok()) return status.message();
    CHECK(codec.request.outputs[0].form == OutputForm::kBinary);
    return codec.request.inputs[0].view.shape.to_string();
  };
  const std::string body(48, '\0');
  CHECK(shape_of(signature(DType::kFp32, {-1, -1}, true), body) == "[1,12]");
  CHECK(shape_of(signature(DType::kFp32, {-1, 3, -1}, true), body) == "[1,3,4]");
  CHECK(shape_of(signature(DType::kFp32, {-1, 12}, true), body) == "[1,12]");
  CHECK(shape_of(signature(DType::kFp32, {-1, 4}), body) == "[3,4]");
  CHECK(shape_of(signature(DType::kFp32, {12}), body) == "[12]");
  CHECK(shape_of(signature(DType::kFp32, {-1, 4}), "") == "[0,4]");
  CHECK(contains(shape_of(signature(DType::kFp32, {-1, 5}), body), "unexpected size"));
  CHECK(contains(shape_of(signature(DType::kFp32, {-1, 11}, true), body), "unexpected size"));
  CHECK(contains(shape_of(signature(DType::kFp32, {-1, 0}), body), "unexpected size"));
  CHECK(contains(shape_of(signature(DType::kFp32, {-1, -1}), body), "more than one free"));
  CHECK(contains(shape_of(signature(DType::kFp32, {-1, std::int64_t{1} << 62, 4}), body),
                 "does not fit"));
  Signature unknown = signature(DType::kFp32, {});
  unknown.inputs[0].rank_known = false;
  CHECK(contains(shape_of(unknown, body), "no declared shape"));
  Signature two = signature(DType::kFp32, {12});
  two.inputs.push_back(spec("z", DType::kFp32, {1}));
  CHECK(contains(shape_of(two, body), "exactly one input"));
}

TEST_CASE("a raw binary request for BYTES is one element") {
  Codec codec(signature(DType::kBytes, {-1, 1}, true), 100);
  REQUIRE(codec.oip("hello", 0).ok());
  CHECK(data_of(codec.request.inputs[0].view) == packed({"hello"}));
  CHECK(codec.request.inputs[0].view.shape == Shape{1, 1});
  REQUIRE(codec.oip(std::string(96, 'x'), 0).ok());
  CHECK(codec.oip(std::string(97, 'x'), 0).code() == Code::kTooLarge);
  CHECK(codec.oip(std::string(200, 'x'), 0).code() == Code::kTooLarge);
  Codec two(signature(DType::kBytes, {-1, 2}, true));
  CHECK(contains(two.oip("hello", 0).message(), "must hold one element"));
}

}  // namespace
}  // namespace servolley::codec
