// The predict_decode cases of tests/data/tfs_json_cases.jsonl by their ids, and our own.

#include <cmath>

#include "codec/codec_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

Codec one(DType dtype) { return Codec(signature(dtype, {-1})); }

Signature two_inputs() {
  Signature s;
  s.inputs.push_back(spec("i", DType::kInt32, {-1}));
  s.inputs.push_back(spec("s", DType::kBytes, {-1}));
  s.outputs.push_back(spec("y", DType::kInt32, {-1}));
  return s;
}

// Shape and bytes of input `index`, as one comparable text.
std::string tensor(const Codec& codec, std::size_t index = 0) {
  const TensorView& view = codec.request.inputs[index].view;
  return view.shape.to_string() + data_of(view);
}

template <class T>
void accepts(DType dtype, const std::string& body, const std::string& shape,
             const std::vector<T>& values) {
  CAPTURE(body);
  Codec codec = one(dtype);
  const Status status = codec.tfs(body);
  CAPTURE(status.message());
  REQUIRE(status.ok());
  CHECK(tensor(codec) == shape + raw(values));
  CHECK(codec.request.outputs.size() == 1);
}

std::string refusal(Codec codec, const std::string& body) {
  const Status status = codec.tfs(body);
  CHECK(status.code() == Code::kInvalidArgument);
  return status.message();
}

TEST_CASE("numbers (P03-P08, P21, P24)") {
  const float inf = std::numeric_limits<float>::infinity();
  accepts<float>(DType::kFp32, R"({"instances":[1, 2.0, 3, 4.25, 0.007, 0.0]})", "[6]",
                 {1, 2, 3, 4.25, 0.007f, 0});
  accepts<double>(DType::kFp64, R"({"instances":[1.0, 2, 0.662, 0]})", "[4]", {1, 2, 0.662, 0});
  accepts<float>(DType::kFp32, R"({"instances":[1435774380]})", "[1]", {1435774336.0f});
  accepts<float>(DType::kFp32, R"({"instances":[1435774380.0]})", "[1]", {1435774336.0f});
  accepts<float>(DType::kFp32, R"({"instances":[1.7976931348623157e308]})", "[1]", {inf});
  accepts<float>(DType::kFp32, R"({"instances":[-1.7976931348623157e308]})", "[1]", {-inf});
  accepts<float>(DType::kFp32, R"({"instances":[2.2250738585072014e-308]})", "[1]", {0.0f});
  accepts<float>(DType::kFp32, R"({"instances":[-2.2250738585072014e-308]})", "[1]", {-0.0f});
  // P21 differs on purpose: 8 and 16 bit integers are range-checked.
  CHECK(contains(refusal(one(DType::kUint8), R"({"instances":[300]})"), "out of range for UINT8"));
  accepts<std::uint64_t>(DType::kUint64, R"({"instances":[18446744073709551615]})", "[1]",
                         {18446744073709551615u});
  CHECK(contains(refusal(one(DType::kFp32), R"({"instances":[1e400]})"), "out of range"));
  CHECK(contains(refusal(one(DType::kFp64), R"({"instances":[-1e309]})"), "out of range"));
  CHECK(contains(refusal(one(DType::kInt32), R"({"instances":[1.0]})"), "expected an integer"));
  CHECK(contains(refusal(one(DType::kInt64), R"({"instances":[9223372036854775808]})"), "range"));
  accepts<float>(DType::kFp32, R"({"inputs":[Infinity,-Inf]})", "[2]", {inf, -inf});
}

TEST_CASE("FP16, BF16 and UINT16, which TensorFlow Serving refuses") {
  accepts<std::uint16_t>(DType::kFp16, R"({"instances":[1, -2.5, 65504, 1e6, -Infinity]})", "[5]",
                         {0x3C00, 0xC100, 0x7BFF, 0x7C00, 0xFC00});
  accepts<std::uint16_t>(DType::kBf16, R"({"instances":[1, -2.5, 1e300]})", "[3]",
                         {0x3F80, 0xC020, 0x7F80});
  accepts<std::uint16_t>(DType::kUint16, R"({"instances":[0, 65535]})", "[2]", {0, 65535});
  CHECK(contains(refusal(one(DType::kUint16), R"({"instances":[65536]})"), "out of range"));
}

TEST_CASE("strings and base64 (P10, P15, N31)") {
  Codec codec = one(DType::kBytes);
  REQUIRE(codec.tfs(R"({"instances":[[{"b64":"aGVsbG8="}],[{"b64":"d29ybGQ="}]]})").ok());
  CHECK(tensor(codec) == "[2,1]" + packed({"hello", "world"}));
  REQUIRE(codec.tfs(R"({"instances":[{"b64":"aGVsbG8="},"plain",{ "b64" : "" }]})").ok());
  CHECK(tensor(codec) == "[3]" + packed({"hello", "plain", ""}));
  REQUIRE(codec.tfs(R"({"inputs":{"b64":"aGVsbG8"}})").ok());
  CHECK(tensor(codec) == "[]" + packed({"hello"}));
  REQUIRE(codec.tfs(R"({"inputs":"hello"})").ok());
  CHECK(tensor(codec) == "[]" + packed({"hello"}));
  REQUIRE(codec.tfs(R"({"inputs":[{"b64":"\u0061Gk="}]})").ok());
  CHECK(tensor(codec) == "[1]" + packed({"hi"}));
  for (const char* body :
       {R"({"inputs":[{"b64":"aGk=","x":1}]})", R"({"inputs":[{"x":1,"b64":"aGk="}]})",
        R"({"inputs":[{"b64":1}]})", R"({"inputs":[{}]})", R"({"inputs":[{"b64":"a*k="}]})",
        R"({"inputs":[{"b64":"aGk=="}]})", R"({"inputs":[{"b64":"a"}]})",
        R"({"inputs":[{"b64":["aGk="]}]})", R"({"inputs":[1]})", R"({"inputs":[true]})"}) {
    CAPTURE(body);
    CHECK(codec.tfs(body).code() == Code::kInvalidArgument);
  }
  CHECK(!one(DType::kFp32).tfs(R"({"instances":[{"b64":"aGk="}]})").ok());
}

TEST_CASE("shapes come from the nesting (P14, N32, N34)") {
  accepts<std::int32_t>(DType::kInt32, R"({"inputs":[[[1,2],[3,4],[5,6]]]})", "[1,3,2]",
                        {1, 2, 3, 4, 5, 6});
  accepts<std::int32_t>(DType::kInt32, R"({"inputs":7})", "[]", {7});
  accepts<std::int32_t>(DType::kInt32, R"({"inputs":[]})", "[0]", {});
  accepts<std::int32_t>(DType::kInt32, R"({"inputs":[[],[]]})", "[2,0]", {});
  accepts<std::int32_t>(DType::kInt32, R"({"instances":[[[[[1]]]]]})", "[1,1,1,1,1]", {1});
  for (const char* body :
       {R"({"inputs":[[1,2],[3]]})", R"({"inputs":[[1],[2,3]]})", R"({"inputs":[1,[2]]})",
        R"({"inputs":[[1],2]})", R"({"inputs":[[],[1]]})", R"({"inputs":[[1],[]]})",
        R"({"inputs":[[[1],[2]],[[3]]]})", R"({"inputs":[[[1]],[[2],[3]]]})",
        R"({"inputs":[[],[[1]]]})", R"({"instances":[[1,2],[3,4],[5]]})",
        R"({"inputs":[[1,2],[3,[4]]]})", R"({"inputs":[[1,2],3,[4,5]]})",
        R"({"inputs":[[1,2],[3,4])", R"({"inputs":[[1,2],[3,4],]})",
        R"({"inputs":[[1,2][3,4]]})"}) {
    CAPTURE(body);
    CHECK(one(DType::kFp32).tfs(body).code() == Code::kInvalidArgument);
  }
  const std::string deepest(kMaxRank, '[');
  const std::string end(kMaxRank, ']');
  CHECK(one(DType::kFp32).tfs("{\"inputs\":" + deepest + "1" + end + "}").ok());
  CHECK(contains(refusal(one(DType::kFp32), "{\"inputs\":[" + deepest + "1" + end + "]}"),
                 "more than 16 dimensions"));
  CHECK(!one(DType::kFp32).tfs("{\"inputs\":" + std::string(500'000, '[')).ok());
}

TEST_CASE("large arrays grow to what they need") {
  for (const char* number : {"0", "0.123456789", "1e-05"}) {
    std::string body = "{\"instances\":[";
    constexpr int kRows = 5000;
    for (int row = 0; row < kRows; ++row) {
      body += row ? ", [" : "[";
      for (int i = 0; i < 7; ++i) body += (i ? ", " : "") + std::string(number);
      body += "]";
    }
    body += "]}";
    Codec codec = one(DType::kFp32);
    REQUIRE(codec.tfs(body).ok());
    CHECK(codec.request.inputs[0].view.shape == Shape{kRows, 7});
    const std::vector<float> expected(kRows * 7, std::strtof(number, nullptr));
    CHECK(data_of(codec.request.inputs[0].view) == raw(expected));
  }
}

TEST_CASE("named inputs, row form (N09, N10, N26)") {
  Codec codec(two_inputs());
  REQUIRE(
      codec.tfs(R"({"instances":[{"i":[[1,2],[3,4]],"s":["a"]},{"s":["b"],"i":[[5,6],[7,8]]}]})")
          .ok());
  CHECK(tensor(codec, 0) == "[2,2,2]" + raw<std::int32_t>({1, 2, 3, 4, 5, 6, 7, 8}));
  CHECK(tensor(codec, 1) == "[2,1]" + packed({"a", "b"}));
  REQUIRE(codec.tfs(R"({"instances":[{"i":1,"s":{"b64":"aGk="}},{"i":2,"s":"x"}]})").ok());
  CHECK(tensor(codec, 0) == "[2]" + raw<std::int32_t>({1, 2}));
  CHECK(tensor(codec, 1) == "[2]" + packed({"hi", "x"}));
  CHECK(!codec.request.columnar);
  const auto refused = [&](const std::string& body) { return refusal(Codec(two_inputs()), body); };
  CHECK(contains(refused(R"({"instances":[{"i":[[1,2],[3,4]],"s":["a"]},
                                          {"i":[[[5,6],[7,8]]],"s":["b"]}]})"),
                 "'i'"));
  CHECK(contains(refused(R"({"instances":[{"i":[[1,2],[3,4],[5,6]],"s":["a"]},
                                          {"i":[[5,6]],"s":["b"]}]})"),
                 "'i': an array of 1 elements where 3 are expected"));
  CHECK(
      contains(refused(R"({"instances":[{"i":[1],"s":["a"]},[1,20]]})"), "begins with an object"));
  CHECK(contains(refused(R"({"instances":[{"i":[1]}]})"), "missing input 's'"));
  CHECK(contains(refused(R"({"instances":[{"i":1,"s":"a"},{"i":1}]})"), "instance 1: missing"));
  CHECK(contains(refused(R"({"instances":[{"i":1,"s":"a","q":1}]})"), "unexpected input 'q'"));
  CHECK(contains(refused(R"({"instances":[{"i":1,"i":1,"s":"a"}]})"), "repeated input 'i'"));
  CHECK(contains(refused(R"({"instances":[1,2]})"), "has 2 inputs"));
  CHECK(contains(refused(R"({"instances":[{"i":1,"s":"a"},{"i":[1],"s":"a"}]})"), "'i'"));
  CHECK(contains(refused(R"({"instances":[{"i":[1],"s":"a"},{"i":1,"s":"a"}]})"), "'i'"));
}

TEST_CASE("named inputs, columnar form (P15, N28)") {
  Signature s = two_inputs();
  s.inputs.push_back(spec("b", DType::kBytes, {}));
  Codec codec(s);
  REQUIRE(codec
              .tfs(R"({"inputs":{"i":[[[1,2]]],"s":["x","y"],"b":{"b64":"aGVsbG8="},
                       "extra":{"ignored":[1]}}})")
              .ok());
  CHECK(tensor(codec, 0) == "[1,1,2]" + raw<std::int32_t>({1, 2}));
  CHECK(tensor(codec, 1) == "[2]" + packed({"x", "y"}));
  CHECK(tensor(codec, 2) == "[]" + packed({"hello"}));
  CHECK(codec.request.columnar);
  const auto refused = [&](const std::string& body) { return refusal(Codec(two_inputs()), body); };
  CHECK(contains(refused(R"({"inputs":{"i":[1]}})"), "missing input 's'"));
  CHECK(contains(refused(R"({"inputs":{"i":[1],"i":[1],"s":"a"}})"), "repeated input 'i'"));
  CHECK(contains(refused(R"({"inputs":[1]})"), "must be an object"));
  Codec single = one(DType::kFp32);
  REQUIRE(single.tfs(R"({"inputs":{"x":[1.0,2.0,5.0]}})").ok());
  CHECK(tensor(single) == "[3]" + raw<float>({1, 2, 5}));
  REQUIRE(single.tfs(R"({"instances":[{"x":[1.0,2.0]},{"x":[3,4]}]})").ok());
  CHECK(tensor(single) == "[2,2]" + raw<float>({1, 2, 3, 4}));
  CHECK(contains(refusal(one(DType::kFp32), R"({"inputs":{"q":[1]}})"), "missing input 'x'"));
  // An input may be called b64, as long as its value is no string.
  Signature named = signature(DType::kFp32, {-1});
  named.inputs[0].name = "b64";
  Codec odd(named);
  REQUIRE(odd.tfs(R"({"inputs":{"b64":[1]}})").ok());
  CHECK(tensor(odd) == "[1]" + raw<float>({1}));
}

TEST_CASE("mixed plain and named instances (N08, N11, N12)") {
  CHECK(contains(refusal(one(DType::kInt32), R"({"instances":[[1,2],["a","b"]]})"),
                 "expected an integer for INT32, found a string"));
  CHECK(!one(DType::kBytes).tfs(R"({"instances":[["x","y"],{"d":["x","y"]}]})").ok());
  CHECK(!one(DType::kFp32).tfs(R"({"instances":[{"x":1},2]})").ok());
  CHECK(!one(DType::kFp32).tfs(R"({"instances":[1,{"x":2}]})").ok());
}

TEST_CASE("the document (P16, N01-N03, N13, N17, N20, N21, N36)") {
  accepts<std::int32_t>(DType::kInt32, R"({"instances":[1], "junk":[[[[[[]]]]]]})", "[1]", {1});
  accepts<std::int32_t>(DType::kInt32, R"( {"signature_name":"serving_default","instances":[1]} )",
                        "[1]", {1});
  accepts<std::int32_t>(DType::kInt32, R"({"instances":[1],"signature_name":""})", "[1]", {1});
  const auto refused = [](const std::string& body) { return refusal(one(DType::kInt32), body); };
  // P16 differs on purpose when the ignored key nests more than 100 levels.
  CHECK(contains(refused(R"({"instances":[1],"junk":)" + std::string(500'000, '[')), "100 levels"));
  CHECK(contains(refused(""), "document is empty"));
  CHECK(contains(refused(R"({"signature_name":5,"instances":[[1,2]]})"), "must be a string"));
  CHECK(contains(refused(R"({"signature_name":[[[]]],"instances":[1]})"), "must be a string"));
  CHECK(contains(refused(R"({"signature_name":)" + std::string(500'000, '[')), "must be a string"));
  CHECK(contains(refused(R"({"signature_name":"other","instances":[1]})"), "'other' not found"));
  CHECK(contains(refused(R"({"instances":[]})"), "no values"));
  CHECK(contains(refused("instances = [1, 2]"), "invalid value"));
  CHECK(contains(refused(R"({"instances":[null]})"), "found null"));
  CHECK(contains(refused(R"({"instances":[1,2)"), "ends here"));
  CHECK(contains(refused(R"({"instances":1})"), "must be an array"));
  CHECK(contains(refused("{}"), "neither"));
  CHECK(contains(refused(R"({"instances":[1],"inputs":[1]})"), "exactly one of"));
  CHECK(contains(refused(R"({"instances":[1],"instances":[1]})"), "exactly one of"));
  CHECK(contains(refused(R"({"instances":[1]} {})"), "after the document"));
  CHECK(contains(refused("\xEF\xBB\xBF{\"instances\":[1]}"), "byte order mark"));
  CHECK(contains(refusal(one(DType::kBool), R"({"instances":[1]})"), "true or false"));
  CHECK(!one(DType::kFp32).tfs(R"({"instances":[null]})").ok());
  CHECK(!one(DType::kBytes).tfs("{\"instances\":[\"\xff\"]}").ok());
  CHECK(!one(DType::kBytes).tfs(R"({"instances":["\ud800"]})").ok());
}

TEST_CASE("decoded tensors share one limit") {
  Signature s;
  for (const char* name : {"a", "b"}) s.inputs.push_back(spec(name, DType::kFp64, {-1}));
  std::string body = R"({"instances":[)";
  constexpr int kRows = 1000;
  for (int i = 0; i < kRows; ++i) body += std::string(i ? "," : "") + R"({"a":[0,0,0],"b":0})";
  body += "]}";
  Codec fits(s, kRows * 32);
  CHECK(fits.tfs(body).ok());
  Codec tight(s, kRows * 32 - 1);
  CHECK(tight.tfs(body).code() == Code::kTooLarge);
  CHECK(tight.pool.stats().high_water_bytes < kRows * 32 * 3);
  std::string flat = R"({"instances":[0)";
  for (int i = 1; i < 100'000; ++i) flat += ",0";
  flat += "]}";
  Codec exact(signature(DType::kFp64, {-1}), 800'000);
  CHECK(exact.tfs(flat).ok());
  Codec small(signature(DType::kFp64, {-1}), 799'999);
  CHECK(small.tfs(flat).code() == Code::kTooLarge);
  CHECK(small.pool.stats().high_water_bytes < 3'000'000);
}

}  // namespace
}  // namespace servolley::codec
