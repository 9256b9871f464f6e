#include <cmath>

#include "codec/codec_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

struct Output {
  std::string name;
  DType dtype;
  Shape shape;
  std::string data;
};

// The answer without white space outside of strings, or the error's message.
std::string compact(std::string_view text) {
  std::string out;
  bool in_string = false;
  for (const char c : text) {
    if (c == '"' && !out.ends_with('\\')) in_string = !in_string;
    if (in_string || (c != ' ' && c != '\n')) out += c;
  }
  return out;
}

std::string tfs(const std::vector<Output>& outputs, bool columnar, bool compacted = true) {
  Signature s;
  std::vector<OutputView> views;
  for (const Output& o : outputs) {
    s.outputs.push_back(spec(o.name, o.dtype, o.shape));
    views.push_back({view_of(o.dtype, o.shape, o.data), nullptr});
  }
  Codec codec(s);
  codec.request.columnar = columnar;
  const Status status =
      encode_tfs_predict(codec.request, views, codec.encode_context(), codec.payload);
  if (!status.ok()) return std::string(code_name(status.code())) + ": " + status.message();
  return compacted ? compact(text_of(codec.payload)) : text_of(codec.payload);
}

std::string oip_data(DType dtype, const Shape& shape, const std::string& data) {
  Codec codec(signature(dtype, shape));
  codec.request.outputs.push_back({.index = 0, .form = OutputForm::kJson, .classification = 0});
  const OutputView view{view_of(dtype, shape, data), nullptr};
  const auto info =
      encode_oip_json(codec.request, {&view, 1}, codec.encode_context(), codec.payload);
  if (!info) return info.error().message();
  CHECK(info->json_length == 0);
  const std::string text = text_of(codec.payload);
  const auto at = text.find("\"data\":");
  REQUIRE(at != std::string::npos);
  REQUIRE(text.ends_with("}]}"));
  return text.substr(at + 7, text.size() - 3 - at - 7);
}

TEST_CASE("TensorFlow Serving's own cases (E02-E06, E13-E15)") {
  const float nan = std::nanf("");
  const float inf = std::numeric_limits<float>::infinity();
  CHECK(tfs({{"o",
              DType::kInt32,
              {2, 3, 2},
              raw<std::int32_t>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})}},
            true) == R"({"outputs":[[[0,1],[2,3],[4,5]],[[6,7],[8,9],[10,11]]]})");
  CHECK(tfs({{"o", DType::kInt32, {5}, raw<std::int32_t>({1, 2, 3, 4, 5})}}, false) ==
        R"({"predictions":[1,2,3,4,5]})");
  CHECK(tfs({{"o_bytes", DType::kBytes, {2, 2}, packed({"hello", "world", "tf", "serving"})}},
            false) == R"({"predictions":[[{"b64":"aGVsbG8="},{"b64":"d29ybGQ="}],)"
                      R"([{"b64":"dGY="},{"b64":"c2VydmluZw=="}]]})");
  CHECK(tfs({{"o",
              DType::kFp32,
              {2, 3},
              raw<float>({9000000, 999999, 0.5, 0.0003f, 3e-5f, 555557.5})}},
            false) == R"({"predictions":[[9e+06,999999.0,0.5],[0.0003,3e-05,555557.5]]})");
  CHECK(tfs({{"o", DType::kFp32, {2, 2}, raw<float>({nan, inf, 3, -inf})}}, false) ==
        R"({"predictions":[[NaN,Infinity],[3.0,-Infinity]]})");
  CHECK(tfs({{"a", DType::kInt32, {0, 2}, ""}}, false) == R"({"predictions":[]})");
  CHECK(tfs({{"a", DType::kBytes, {0, 1, 2}, ""}, {"b", DType::kFp32, {0, 3, 4}, ""}}, false) ==
        R"({"predictions":[]})");
  CHECK(contains(
      tfs({{"a", DType::kInt32, {0, 2}, ""}, {"b", DType::kBytes, {1, 2}, packed({"x", "y"})}},
          false),
      "INVALID_ARGUMENT: inconsistent batch size"));
  CHECK(contains(tfs({{"a", DType::kInt32, {}, raw<std::int32_t>({1})}}, false),
                 "INVALID_ARGUMENT: output 'a' is a scalar"));
}

TEST_CASE("several outputs have names, one has none") {
  const std::vector<Output> outputs = {
      {"a", DType::kInt32, {2, 2}, raw<std::int32_t>({1, 2, 3, 4})},
      {"b\"", DType::kFp32, {2}, raw<float>({0.5, 1})},
      {"s", DType::kBytes, {2, 1}, packed({"x\n", "\xc3\xa9"})}};
  CHECK(tfs(outputs, false) == R"({"predictions":[{"a":[1,2],"b\"":0.5,"s":["x\n"]},)"
                               "{\"a\":[3,4],\"b\\\"\":1.0,\"s\":[\"\xc3\xa9\"]}]}");
  CHECK(tfs(outputs, true) == R"({"outputs":{"a":[[1,2],[3,4]],"b\"":[0.5,1.0],"s":[["x\n"],[")"
                              "\xc3\xa9\"]]}}");
  CHECK(tfs({{"o", DType::kFp32, {}, raw<float>({2.5})}}, true) == R"({"outputs":2.5})");
  CHECK(tfs({{"y", DType::kFp32, {2, 2}, raw<float>({2.5, 3, 3.5, 4})}}, false, false) ==
        "{\n    \"predictions\": [[2.5, 3.0], [3.5, 4.0]]\n}");
}

TEST_CASE("bytes that are no text") {
  const std::string bad = packed({"\xff"});
  CHECK(contains(tfs({{"o", DType::kBytes, {1}, bad}}, false), "not UTF-8"));
  CHECK(tfs({{"o_bytes", DType::kBytes, {1}, bad}}, false) ==
        R"({"predictions":[{"b64":"/w=="}]})");
  CHECK(contains(oip_data(DType::kBytes, {1}, bad), "not UTF-8"));
}

TEST_CASE("every datatype as JSON") {
  CHECK(oip_data(DType::kBool, {3}, raw<std::uint8_t>({0, 1, 2})) == "[false,true,true]");
  CHECK(oip_data(DType::kUint8, {2}, raw<std::uint8_t>({0, 255})) == "[0,255]");
  CHECK(oip_data(DType::kUint16, {2}, raw<std::uint16_t>({0, 65535})) == "[0,65535]");
  CHECK(oip_data(DType::kUint32, {2}, raw<std::uint32_t>({0, 4294967295})) == "[0,4294967295]");
  CHECK(oip_data(DType::kUint64, {1}, raw<std::uint64_t>({18446744073709551615u})) ==
        "[18446744073709551615]");
  CHECK(oip_data(DType::kInt8, {2}, raw<std::int8_t>({-128, 127})) == "[-128,127]");
  CHECK(oip_data(DType::kInt16, {2}, raw<std::int16_t>({-32768, 7})) == "[-32768,7]");
  CHECK(oip_data(DType::kInt32, {2, 1}, raw<std::int32_t>({-5, 10})) == "[-5,10]");
  CHECK(oip_data(DType::kInt64, {1}, raw<std::int64_t>({-9223372036854775807})) ==
        "[-9223372036854775807]");
  CHECK(oip_data(DType::kFp32, {2, 2}, raw<float>({0.1f, 1, -2.5, 1e20f})) ==
        "[0.1,1.0,-2.5,1e+20]");
  CHECK(oip_data(DType::kFp64, {2}, raw<double>({0.1, 1.0 / 3})) == "[0.1,0.3333333333333333]");
  CHECK(oip_data(DType::kBytes, {3}, packed({"a", "", "\"\t"})) == R"(["a","","\"\t"])");
  CHECK(oip_data(DType::kFp32, {0, 3}, "") == "[]");
  CHECK(tfs({{"o", DType::kFp16, {2}, raw<std::uint16_t>({0x3C00, 0x2E66})}}, false) ==
        R"({"predictions":[1.0,0.0999756]})");
  CHECK(tfs({{"o", DType::kBf16, {3}, raw<std::uint16_t>({0x3F80, 0x3DCD, 0x7F80})}}, false) ==
        R"({"predictions":[1.0,0.100098,Infinity]})");
  CHECK(tfs({{"o", DType::kUint16, {1}, raw<std::uint16_t>({65535})}}, false) ==
        R"({"predictions":[65535]})");
  CHECK(tfs({{"o", DType::kBool, {2}, raw<std::uint8_t>({0, 1})}}, false) ==
        R"({"predictions":[false,true]})");
}

TEST_CASE("the answer's envelope") {
  Codec codec(signature(DType::kFp32, {-1, 2}, true));
  REQUIRE(codec
              .oip(R"({"id":"a \"b\"","inputs":[{"name":"x","shape":[1,2],"datatype":"FP32",)"
                   R"("data":[1,2]}]})")
              .ok());
  const std::string data = raw<float>({0.5, -1});
  const OutputView view{view_of(DType::kFp32, {1, 2}, data), nullptr};
  REQUIRE(encode_oip_json(codec.request, {&view, 1}, codec.encode_context(), codec.payload)
              .has_value());
  CHECK(text_of(codec.payload) ==
        R"({"id":"a \"b\"","model_name":"m","model_version":"3","outputs":[{"name":"y",)"
        R"("datatype":"FP32","shape":[1,2],"data":[0.5,-1.0]}]})");
}

TEST_CASE("outputs in the order asked for, JSON and binary mixed") {
  Signature s = signature(DType::kUint8, {-1});
  s.outputs.push_back(spec("z", DType::kUint8, {-1}));
  s.outputs.push_back(spec("unused", DType::kUint8, {-1}));
  Codec codec(s);
  codec.request.outputs = {{.index = 1, .form = OutputForm::kBinary, .classification = 0},
                           {.index = 0, .form = OutputForm::kJson, .classification = 0}};
  const std::string y = "\1\2";
  const std::string z = "\3";
  const OutputView views[] = {
      {view_of(DType::kUint8, {2}, y), nullptr}, {view_of(DType::kUint8, {1}, z), nullptr}, {}};
  const auto info = encode_oip_json(codec.request, views, codec.encode_context(), codec.payload);
  REQUIRE(info.has_value());
  const std::string text = text_of(codec.payload);
  CHECK(text.substr(info->json_length) == z);
  CHECK(contains(text, R"("outputs":[{"name":"z","datatype":"UINT8","shape":[1],)"
                       R"("parameters":{"binary_data_size":1}},{"name":"y","datatype":"UINT8",)"
                       R"("shape":[2],"data":[1,2]}]})"));
}

TEST_CASE("a tensor whose bytes do not match its shape is an internal error") {
  CHECK(contains(oip_data(DType::kFp32, {3}, raw<float>({1, 2})), "output 'y'"));
  CHECK(contains(oip_data(DType::kBytes, {3}, packed({"a"})), "output 'y'"));
}

TEST_CASE("error bodies") {
  const auto error = [](std::string_view message) {
    std::string out = "kept ";
    append_error_json(message, out);
    return out;
  };
  CHECK(error("Bad key: \"key\"") == R"(kept {"error":"Bad key: \"key\""})");
  CHECK(error("") == R"(kept {"error":""})");
  CHECK(error("\x01\xff") == "kept {\"error\":\"\\u0001\xEF\xBF\xBD\"}");
}

}  // namespace
}  // namespace servolley::codec
