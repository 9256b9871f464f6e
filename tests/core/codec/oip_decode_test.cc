#include "codec/codec_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

std::string request(const std::string& dtype, const std::string& shape, const std::string& data,
                    const std::string& more = "") {
  return R"({"inputs":[{"name":"x","datatype":")" + dtype + R"(","shape":)" + shape +
         R"(,"data":)" + data + "}]" + more + "}";
}

template <class T>
void check_values(DType dtype, const std::string& data, const std::vector<T>& expected) {
  CAPTURE(oip_name(dtype));
  Codec codec(signature(dtype, {-1, 2}));
  const Status status = codec.oip(request(std::string(oip_name(dtype)), "[2,2]", data));
  CAPTURE(status.message());
  REQUIRE(status.ok());
  const InputTensor& input = codec.request.inputs[0];
  CHECK(input.owner);
  CHECK(input.view.shape == Shape{2, 2});
  CHECK(data_of(input.view) == raw(expected));
}

TEST_CASE("JSON data of every datatype, nested and flat") {
  check_values<std::uint8_t>(DType::kBool, "[[true,false],[false,true]]", {1, 0, 0, 1});
  check_values<std::uint8_t>(DType::kUint8, "[0,1,128,255]", {0, 1, 128, 255});
  check_values<std::uint16_t>(DType::kUint16, "[[0,1],[2,65535]]", {0, 1, 2, 65535});
  check_values<std::uint32_t>(DType::kUint32, "[0,1,2,4294967295]", {0, 1, 2, 4294967295});
  check_values<std::uint64_t>(DType::kUint64, "[[0,1],[2,18446744073709551615]]",
                              {0, 1, 2, 18446744073709551615u});
  check_values<std::int8_t>(DType::kInt8, "[-128,-1,0,127]", {-128, -1, 0, 127});
  check_values<std::int16_t>(DType::kInt16, "[[-32768,-1],[0,32767]]", {-32768, -1, 0, 32767});
  check_values<std::int32_t>(DType::kInt32, "[-2147483648,-1,-0,2147483647]",
                             {std::numeric_limits<std::int32_t>::min(), -1, 0, 2147483647});
  check_values<std::int64_t>(
      DType::kInt64, "[[-9223372036854775808,-1],[0,9223372036854775807]]",
      {std::numeric_limits<std::int64_t>::min(), -1, 0, std::numeric_limits<std::int64_t>::max()});
  check_values<float>(DType::kFp32, " [ [ 1 , 2.5 ] , [ -3e2 ,\n0.1 ] ] ", {1, 2.5, -300, 0.1f});
  check_values<double>(DType::kFp64, "[1,2.5,-3e2,0.1]", {1, 2.5, -300, 0.1});
}

TEST_CASE("JSON BYTES are packed") {
  Codec codec(signature(DType::kBytes, {-1, 2}));
  REQUIRE(codec.oip(request("BYTES", "[2,2]", R"([["a",""],["\u00e9\n","x\ud83d\ude00"]])")).ok());
  CHECK(data_of(codec.request.inputs[0].view) ==
        packed({"a", "", "\xc3\xa9\n", "x\xf0\x9f\x98\x80"}));
  REQUIRE(codec.oip(request("BYTES", "[2,2]", R"(["a","b","c","d"])")).ok());
  for (const char* bad : {R"(["a","b","c"])", R"(["a","b","c","d","e"])", R"(["a","b","c",1])",
                          R"(["a","b","c",null])", R"(["a","b","c",{"b64":"aGk="}])",
                          R"([["a","b"],["c"]])", R"([["a","b"]])", R"(["a","b","c","d])"}) {
    CAPTURE(bad);
    CHECK(codec.oip(request("BYTES", "[2,2]", bad)).code() == Code::kInvalidArgument);
  }
}

TEST_CASE("data must agree with the declared shape") {
  Codec codec(signature(DType::kInt32, {-1, 2, 2}));
  const auto with = [&](const std::string& data) {
    return codec.oip(request("INT32", "[2,2,2]", data));
  };
  CHECK(with("[[[1,2],[3,4]],[[5,6],[7,8]]]").ok());
  CHECK(with("[1,2,3,4,5,6,7,8]").ok());
  for (const char* bad :
       {"[1,2,3,4,5,6,7]", "[1,2,3,4,5,6,7,8,9]", "[[1,2,3,4],[5,6,7,8]]", "[[[1,2],[3,4]]]",
        "[[[1,2],[3,4]],[[5,6],[7]]]", "[[[1,2],[3,4]],[[5,6],[7,8,9]]]", "[]", "[[]]",
        "[[[1,2],[3,4]],[[5,6],[7,8]],[[9,9],[9,9]]]", "[[[[1,2],[3,4]],[[5,6],[7,8]]]]",
        "[[[1,2],[3,4]],[5,6,7,8]]", "[1,[2],3,4,5,6,7,8]", "[[[1,2],[3,4]],[[5,6],7]]", "8", "{}",
        "\"12345678\"", "null", "[[[1,2],[3,4]],[[5,6],[7,8]]", "[[[1,2],[3,4]],[[5,6],[7,8]]]]"}) {
    CAPTURE(bad);
    CHECK(with(bad).code() == Code::kInvalidArgument);
  }
  Codec flat(signature(DType::kInt32, {-1}));
  CHECK(flat.oip(request("INT32", "[16]", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16]")).ok());
  CHECK(!flat.oip(request("INT32", "[16]", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15]")).ok());
  CHECK(!flat.oip(request("INT32", "[16]", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]")).ok());
  CHECK(flat.oip(request("INT32", "[0]", "[]")).ok());
  CHECK(!flat.oip(request("INT32", "[0]", "[1]")).ok());
  Codec scalar(signature(DType::kInt32, {}));
  CHECK(scalar.oip(request("INT32", "[]", "[5]")).ok());
  CHECK(!scalar.oip(request("INT32", "[]", "[5,6]")).ok());
}

TEST_CASE("members may come in any order") {
  Codec codec(signature(DType::kFp32, {-1, 2}, true));
  REQUIRE(codec
              .oip(R"({"parameters":{"binary_data_output":false},"inputs":[
      {"data":[[1,2],[3,4]],"unknown":{"deep":[{}]},"shape":[2,2],"datatype":"FP32","name":"x"}],
      "extra":[1,{"a":null}],"id":"request \u00e9"})")
              .ok());
  CHECK(data_of(codec.request.inputs[0].view) == raw<float>({1, 2, 3, 4}));
  CHECK(codec.request.id == "request \xc3\xa9");
}

TEST_CASE("shapes are checked before anything is allocated for them") {
  Signature any = signature(DType::kFp32, {});
  any.inputs[0].rank_known = false;
  Codec codec(any);
  for (const char* shape : {"[16,1152921504606846978]",
                            "[4,1152921504606846978]",
                            "[2,-5]",
                            "[-1]",
                            "[-9223372036854775808]",
                            "[1e30]",
                            "[1.5]",
                            "[\"3\"]",
                            "[true]",
                            "[null]",
                            "[18446744073709551616]",
                            "[9223372036854775808]",
                            "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
                            "3",
                            "{}",
                            "null",
                            "[[2]]",
                            "[2",
                            "[2,]",
                            "[0,9223372036854775807,9223372036854775807]"}) {
    CAPTURE(shape);
    CHECK(codec.oip(request("FP32", shape, "[1,2]")).code() == Code::kInvalidArgument);
  }
  // 4 GB claimed, 10 bytes sent.
  CHECK(codec.oip(request("FP32", "[1000000000]", "[1,2,3]")).code() == Code::kInvalidArgument);
  CHECK(codec.pool.stats().high_water_bytes < 4096);
  std::string hundred_thousand = "[1";
  for (int i = 1; i < 100'000; ++i) hundred_thousand += ",1";
  CHECK(!codec.oip(request("FP32", hundred_thousand + "]", "[1]")).ok());
  CHECK(codec.oip(request("FP32", "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]", "[1]")).ok());

  Codec fixed(signature(DType::kFp32, {-1, 4}, true));
  const std::string message = fixed.oip(request("FP32", "[1,3]", "[1,2,3]")).message();
  CHECK(contains(message,
                 "unexpected shape for input 'x' for model 'm'. Expected [-1,4], got [1,3]"));
  CHECK(!fixed.oip(request("FP32", "[4]", "[1,2,3,4]")).ok());
  CHECK(!fixed.oip(request("FP32", "[]", "[1]")).ok());
}

TEST_CASE("decoded tensors share one limit") {
  Signature s;
  for (const char* name : {"a", "b"}) s.inputs.push_back(spec(name, DType::kFp64, {-1}));
  const auto with = [&](int first, int second, std::size_t limit) {
    Codec codec(s, limit);
    const auto input = [](const char* name, int count) {
      std::string data = "[0";
      for (int i = 1; i < count; ++i) data += ",0";
      return std::string(R"({"name":")") + name + R"(","datatype":"FP64","shape":[)" +
             std::to_string(count) + R"(],"data":)" + data + "]}";
    };
    return codec.oip(R"({"inputs":[)" + input("a", first) + "," + input("b", second) + "]}").code();
  };
  CHECK(with(100, 100, 1600) == Code::kOk);
  CHECK(with(100, 101, 1600) == Code::kTooLarge);
  CHECK(with(201, 1, 1600) == Code::kTooLarge);
}

TEST_CASE("many tiny BYTES elements stay within the limit") {
  std::string data = "[\"\"";
  constexpr int kElements = 1'000'000;
  for (int i = 1; i < kElements; ++i) data += ",\"\"";
  data += "]";
  const std::string shape = "[" + std::to_string(kElements) + "]";
  Codec codec(signature(DType::kBytes, {-1}));
  CHECK(codec.oip(request("BYTES", shape, data)).ok());
  CHECK(codec.request.inputs[0].view.bytes == 4 * kElements);
  CHECK(codec.pool.stats().high_water_bytes < 20'000'000);
  Codec small(signature(DType::kBytes, {-1}), 3'999'999);
  CHECK(small.oip(request("BYTES", shape, data)).code() == Code::kTooLarge);
  CHECK(small.pool.stats().high_water_bytes < 12'000'000);
}

TEST_CASE("an input has exactly one source of data") {
  Codec codec(signature(DType::kFp32, {-1}));
  const std::string head = R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1])";
  CHECK(contains(codec.oip(head + "}]}").message(), "exactly one of"));
  CHECK(
      contains(codec.oip(head + R"(,"data":[1],"parameters":{"binary_data_size":4}}]})").message(),
               "exactly one of"));
  const Status shm = codec.oip(head + R"(,"parameters":{"shared_memory_region":"r"}}]})");
  CHECK(shm.code() == Code::kUnimplemented);
  CHECK(contains(shm.message(), "shared memory"));
  CHECK(codec.oip(head + R"(,"data":[1],"parameters":{"shared_memory_region":"r"}}]})").code() ==
        Code::kInvalidArgument);
  CHECK(codec.oip(head + R"(,"data":[1],"parameters":{"other":[1,{}]}}]})").ok());
}

TEST_CASE("names: unknown, twice, missing") {
  Signature s;
  for (const char* name : {"a", "b"}) s.inputs.push_back(spec(name, DType::kInt32, {-1}));
  s.outputs.push_back(spec("y", DType::kInt32, {-1}));
  Codec codec(s);
  const auto input = [](const std::string& name) {
    return R"({"name":")" + name + R"(","datatype":"INT32","shape":[1],"data":[1]})";
  };
  const auto with = [&](const std::string& inputs, const std::string& outputs = "[]") {
    return codec.oip(R"({"inputs":[)" + inputs + R"(],"outputs":)" + outputs + "}").message();
  };
  CHECK(with(input("b") + "," + input("a")).empty());
  CHECK(contains(with(input("z")), "unexpected inference input 'z' for model 'm'"));
  CHECK(contains(with(input("a") + "," + input("a")), "given twice"));
  CHECK(
      contains(with(input("a")), "expected 2 inputs but got 1 inputs for model 'm': missing 'b'"));
  CHECK(contains(with(""), "expected 2 inputs but got 0"));
  CHECK(contains(codec.oip("{}").message(), "expected 2 inputs but got 0"));
  CHECK(contains(with(R"({"datatype":"INT32","shape":[1],"data":[1]})"), "no 'name'"));
  CHECK(contains(with(R"({"name":"a","shape":[1],"data":[1]})"), "no 'datatype' for input 'a'"));
  CHECK(contains(with(R"({"name":"a","datatype":"INT32","data":[1]})"), "no 'shape'"));
  CHECK(contains(with("1"), "must be an object"));
  const std::string both = input("a") + "," + input("b");
  CHECK(with(both, R"([{"name":"y"}])").empty());
  CHECK(contains(with(both, R"([{"name":"q"}])"), "unexpected inference output 'q' for model 'm'"));
  CHECK(contains(with(both, R"([{"name":"y"},{"name":"y"}])"), "asked for twice"));
  CHECK(contains(with(both, R"([{}])"), "no 'name'"));
  CHECK(contains(with(both, R"({"name":"y"})"), "must be an array"));
  CHECK(contains(with(input("a\\u0000")), "unexpected inference input"));
}

TEST_CASE("client text in messages is cut, and stays UTF-8") {
  Codec codec(signature(DType::kInt32, {-1}));
  std::string name;
  for (int i = 0; i < 1000; ++i) name += "\xe2\x82\xac";
  const std::string message = codec.oip(R"({"inputs":[{"name":")" + name + "\"}]}").message();
  CHECK(message.size() < 200);
  std::string json;
  append_error_json(message, json);
  CHECK(!contains(json, "\xEF\xBF\xBD"));
  CHECK(codec.oip(R"({"inputs":[{"name":"x","datatype":")" + name + "\"}]}").message().size() <
        250);
  CHECK(codec.oip(request("INT32", "[1]", "[" + std::string(100'000, '1') + "]")).message().size() <
        250);
  CHECK(codec.oip(R"({"parameters":{")" + name + R"(":null}})").message().size() < 250);
}

TEST_CASE("datatypes") {
  Codec codec(signature(DType::kInt32, {-1}));
  CHECK(contains(codec.oip(request("FP32", "[1]", "[1]")).message(),
                 "inference input 'x' data-type is 'FP32', but model 'm' expects 'INT32'"));
  CHECK(contains(codec.oip(request("INT4", "[1]", "[1]")).message(), "unknown datatype 'INT4'"));
  CHECK(!codec.oip(R"({"inputs":[{"name":"x","datatype":3,"shape":[1],"data":[1]}]})").ok());
  for (const DType dtype : {DType::kFp16, DType::kBf16}) {
    Codec half(signature(dtype, {-1}));
    const std::string json = request(std::string(oip_name(dtype)), "[1]", "[1]");
    CHECK(contains(half.oip(json).message(), "data via JSON is not supported"));
    CHECK(contains(half.oip_binary(R"({"inputs":[{"name":"x","shape":[1],"datatype":")" +
                                       std::string(oip_name(dtype)) +
                                       R"(","parameters":{"binary_data_size":2}}]})",
                                   "ab")
                       .message(),
                   "use the binary data format for output 'y'"));
  }
}

TEST_CASE("literals out of range") {
  Codec codec(signature(DType::kFp32, {-1}));
  for (const char* literal : {"1e400", "-1e400", "1e39", "3.5e38"}) {
    CAPTURE(literal);
    CHECK(codec.oip(request("FP32", "[1]", std::string("[") + literal + "]")).code() ==
          Code::kInvalidArgument);
  }
  CHECK(codec.oip(request("FP32", "[2]", "[1e-400,1e-50]")).ok());
  CHECK(data_of(codec.request.inputs[0].view) == raw<float>({0, 0}));
  for (const char* literal : {"null", "true", "\"1\"", "[1]", "{}"}) {
    CHECK(!codec.oip(request("FP32", "[1]", std::string("[") + literal + "]")).ok());
  }
  Codec flag(signature(DType::kBool, {-1}));
  for (const char* literal : {"1", "0", "null", "\"true\"", "True", "NaN"}) {
    CHECK(!flag.oip(request("BOOL", "[1]", std::string("[") + literal + "]")).ok());
  }
}

TEST_CASE("batched inputs share their first dimension") {
  Signature s;
  for (const char* name : {"a", "b"}) s.inputs.push_back(spec(name, DType::kInt32, {-1}));
  s.batched = true;
  Codec codec(s);
  const std::string body = R"({"inputs":[{"name":"a","datatype":"INT32","shape":[2],"data":[1,2]},)"
                           R"({"name":"b","datatype":"INT32","shape":[1],"data":[1]}]})";
  CHECK(contains(codec.oip(body).message(), "same first dimension"));
  codec.signature.batched = false;
  CHECK(codec.oip(body).ok());
}

TEST_CASE("request parameters") {
  Codec codec(signature(DType::kInt32, {-1}));
  const auto with = [&](const std::string& parameters) {
    return codec.oip(request("INT32", "[1]", "[1]", ",\"parameters\":" + parameters));
  };
  REQUIRE(with(R"({"priority":18446744073709551615,"timeout":9223372036854775808})").ok());
  CHECK(codec.request.priority == std::numeric_limits<std::uint64_t>::max());
  CHECK(codec.request.timeout_us == std::uint64_t{1} << 63);
  REQUIRE(with(R"({"timeout":0})").ok());
  CHECK(!codec.request.timeout_us);
  CHECK(codec.request.priority == 0);
  CHECK(with(R"({"a":"s","b":-1,"c":true,"d":1.5e3})").ok());
  for (const char* ignored : {R"({"sequence_id":0})", R"({"sequence_id":""})",
                              R"({"sequence_start":false,"sequence_end":false})", "{}"}) {
    CHECK(with(ignored).ok());
  }
  for (const char* sequence : {R"({"sequence_id":5})", R"({"sequence_id":"abc"})",
                               R"({"sequence_start":true})", R"({"sequence_end":true})"}) {
    CAPTURE(sequence);
    CHECK(with(sequence).code() == Code::kUnimplemented);
    CHECK(contains(with(sequence).message(), "sequences are not supported"));
  }
  CHECK(with("{\"sequence_id\":\"" + std::string(1 << 20, 'x') + "\"}").code() ==
        Code::kUnimplemented);
  for (const char* bad :
       {R"({"priority":-1})", R"({"priority":1.5})", R"({"priority":"1"})", R"({"timeout":-1})",
        R"({"timeout":18446744073709551616})", R"({"timeout":null})", R"({"a":null})",
        R"({"a":[]})", R"({"a":{}})", R"({"triton_final_response":true})", R"({"triton_x":1})",
        R"({"binary_data_output":1})", R"({"sequence_id":-1})", R"({"sequence_start":1})", "[]",
        "1", R"({"binary_data_output":true,"binary_data_output":true})"}) {
    CAPTURE(bad);
    CHECK(with(bad).code() == Code::kInvalidArgument);
  }
}

TEST_CASE("which outputs, and in which form") {
  Signature s = signature(DType::kInt32, {-1});
  s.outputs.push_back(spec("z", DType::kInt32, {-1}));
  s.outputs.push_back(spec("names", DType::kBytes, {-1}));
  Codec codec(s);
  const auto forms = [&](const std::string& more) {
    const Status status = codec.oip(request("INT32", "[1]", "[1]", more));
    if (!status.ok()) return status.message();
    std::string out;
    for (const RequestedOutput& o : codec.request.outputs) {
      out += std::to_string(o.index) + (o.form == OutputForm::kBinary ? 'b' : 'j');
      if (o.classification) out += std::to_string(o.classification);
      out += ' ';
    }
    return out;
  };
  CHECK(forms("") == "0j 1j 2j ");
  CHECK(forms(R"(,"outputs":[])") == "0j 1j 2j ");
  CHECK(forms(R"(,"parameters":{"binary_data_output":true})") == "0b 1b 2b ");
  CHECK(forms(R"(,"outputs":[],"parameters":{"binary_data_output":true})") == "0b 1b 2b ");
  CHECK(forms(R"(,"outputs":[{"name":"z","parameters":{"binary_data":true}},{"name":"y"}],)"
              R"("parameters":{"binary_data_output":true})") == "1b 0j ");
  CHECK(forms(R"(,"outputs":[{"name":"y","parameters":{"classification":3}}])") == "0j3 ");
  CHECK(
      forms(R"(,"outputs":[{"parameters":{"classification":3,"binary_data":true},"name":"y"}])") ==
      "0b3 ");
  const auto parameter = [&](const std::string& parameters, const char* name = "y") {
    return forms(R"(,"outputs":[{"name":")" + std::string(name) + R"(","parameters":)" +
                 parameters + "}]");
  };
  for (const char* bad : {R"({"classification":0})", R"({"classification":-1})",
                          R"({"classification":1099511627776})", R"({"classification":"3"})",
                          R"({"classification":1.0})"}) {
    CAPTURE(bad);
    CHECK(contains(parameter(bad), "'classification' must be"));
  }
  CHECK(contains(parameter(R"({"classification":1})", "names"), "classification needs"));
  CHECK(contains(parameter(R"({"binary_data":1})"), "true or false"));
  CHECK(contains(parameter(R"({"shared_memory_region":"r","classification":1})"), "excludes"));
  CHECK(contains(parameter(R"({"shared_memory_region":"r","binary_data":true})"), "excludes"));
  CHECK(contains(parameter(R"({"shared_memory_region":"r"})"), "not supported"));
  CHECK(contains(parameter("[]"), "must be an object"));
}

TEST_CASE("documents that are too large cost bounded memory") {
  Codec codec(signature(DType::kInt32, {-1}));
  std::string many_inputs = R"({"inputs":[)";
  std::string many_outputs = R"({"outputs":[)";
  std::string many_keys = "{";
  for (int i = 0; i < 100'000; ++i) {
    const std::string n = std::to_string(i);
    many_inputs += R"({"name":"i)" + n + R"("},)";
    many_outputs += R"({"name":"o)" + n + R"("},)";
    many_keys += "\"k" + n + "\":0,";
  }
  CHECK(contains(codec.oip(many_inputs + "1]}").message(), "unexpected inference input 'i0'"));
  CHECK(contains(codec.oip(many_outputs + "1]}").message(), "unexpected inference output 'o0'"));
  CHECK(contains(codec.oip(many_keys + "\"k\":0}").message(), "expected 1 inputs but got 0"));
  CHECK(contains(codec.oip("{\"" + std::string(1 << 20, 'k') + "\":0}").message(), "expected 1"));
  CHECK(codec.pool.stats().high_water_bytes == 0);
  std::string deep = R"({"a":)" + std::string(250'000, '[');
  CHECK(contains(codec.oip(deep).message(), "nested more than 100"));
  CHECK(!codec.oip(request("INT32", "[1]", std::string(250'000, '['))).ok());
  CHECK(!codec.oip(R"({"inputs":[{"data":)" + std::string(250'000, '[')).ok());
}

TEST_CASE("keys given twice are refused") {
  Codec codec(signature(DType::kInt32, {-1}));
  const std::string x = R"({"name":"x","datatype":"INT32","shape":[1],"data":[1])";
  for (const char* twice : {R"("name":"x")", R"("datatype":"INT32")", R"("shape":[1])",
                            R"("data":[1])", R"("parameters":{},"parameters":{})"}) {
    CHECK(contains(codec.oip(R"({"inputs":[)" + x + "," + twice + "}]}").message(), "twice"));
  }
  for (const char* twice : {R"("inputs":[])", R"("id":"a","id":"b")",
                            R"("outputs":[],"outputs":[])", R"("parameters":{},"parameters":{})"}) {
    CHECK(contains(codec.oip(R"({"inputs":[)" + x + "}]," + twice + "}").message(), "twice"));
  }
}

}  // namespace
}  // namespace servolley::codec
