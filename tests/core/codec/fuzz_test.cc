// Random tensors through both dialects and back, and random damage to valid requests.

#include <random>

#include "codec/codec_fixture.h"
#include "codec/json_reader.h"

namespace servolley::codec {
namespace {

using namespace testing;

using Random = std::mt19937_64;

Shape random_shape(Random& random) {
  Shape shape;
  const std::uint64_t rank = 1 + random() % 4;
  for (std::uint64_t i = 0; i < rank; ++i) {
    shape.push_back(static_cast<std::int64_t>(1 + random() % 5));
  }
  return shape;
}

std::string random_data(Random& random, DType dtype, std::size_t elements) {
  if (dtype == DType::kBytes) {
    std::vector<std::string> strings(elements);
    for (std::string& s : strings) {
      for (std::uint64_t k = random() % 12; k > 0; --k) {
        switch (random() % 4) {
          case 0:
            s += static_cast<char>(random() % 128);
            break;
          case 1:
            s += "\xc3\xa9";
            break;
          case 2:
            s += "\xf0\x9f\x98\x80";
            break;
          default:
            s += static_cast<char>('a' + random() % 26);
        }
      }
    }
    return packed(strings);
  }
  std::string data(elements * element_size(dtype), '\0');
  for (char& c : data) c = static_cast<char>(random());
  for (std::size_t i = 0; i < elements; ++i) {
    char* const at = data.data() + i * element_size(dtype);
    if (dtype == DType::kBool) *at = static_cast<char>(*at & 1);
    // NaN has many bit patterns, of which text keeps one.
    if (dtype == DType::kFp32) {
      float v;
      std::memcpy(&v, at, 4);
      if (v != v) std::memset(at, 0, 4);
    }
    if (dtype == DType::kFp64) {
      double v;
      std::memcpy(&v, at, 8);
      if (v != v) std::memset(at, 0, 8);
    }
    if (dtype == DType::kFp16 && (at[1] & 0x7C) == 0x7C) at[1] = 0;
    if (dtype == DType::kBf16 && (at[1] & 0x7F) == 0x7F) at[1] = 0;
  }
  return data;
}

// The JSON that an answer of the Open Inference Protocol carries in its "data".
std::string data_member(const std::string& answer) {
  const auto at = answer.find("\"data\":") + 7;
  return answer.substr(at, answer.size() - 3 - at);
}

TEST_CASE("random tensors survive both dialects bit by bit") {
  Random random(21);
  for (int round = 0; round < 4000; ++round) {
    const auto dtype = static_cast<DType>(random() % kDTypeCount);
    const Shape shape = random_shape(random);
    CAPTURE(oip_name(dtype));
    CAPTURE(shape.to_string());
    const std::string data =
        random_data(random, dtype, static_cast<std::size_t>(*shape.element_count()));
    const OutputView view{view_of(dtype, shape, data), nullptr};
    Codec codec(signature(dtype, shape));

    codec.request.columnar = random() % 2 == 0;
    REQUIRE(
        encode_tfs_predict(codec.request, {&view, 1}, codec.encode_context(), codec.payload).ok());
    std::string body = text_of(codec.payload);
    const std::string_view answer = codec.request.columnar ? "outputs" : "predictions";
    body.replace(body.find(answer), answer.size(), codec.request.columnar ? "inputs" : "instances");
    const Status tfs = codec.tfs(body);
    CAPTURE(tfs.message());
    REQUIRE(tfs.ok());
    REQUIRE(codec.request.inputs[0].view.shape == shape);
    REQUIRE(data_of(codec.request.inputs[0].view) == data);

    if (dtype == DType::kFp16 || dtype == DType::kBf16) continue;
    codec.request.clear();
    codec.request.outputs = {{.index = 0, .form = OutputForm::kJson, .classification = 0}};
    codec.payload.clear();
    REQUIRE(encode_oip_json(codec.request, {&view, 1}, codec.encode_context(), codec.payload)
                .has_value());
    const std::string values = data_member(text_of(codec.payload));
    const Status oip =
        codec.oip(R"({"inputs":[{"name":"x","shape":)" + shape.to_string() + R"(,"datatype":")" +
                  std::string(oip_name(dtype)) + R"(","data":)" + values + "}]}");
    CAPTURE(oip.message());
    REQUIRE(oip.ok());
    REQUIRE(data_of(codec.request.inputs[0].view) == data);
  }
}

Signature many_types() {
  Signature s;
  s.inputs.push_back(spec("f", DType::kFp32, {-1, 2}));
  s.inputs.push_back(spec("i", DType::kInt16, {-1}));
  s.inputs.push_back(spec("s", DType::kBytes, {-1}));
  s.outputs.push_back(spec("y", DType::kFp32, {-1, 2}));
  s.outputs.push_back(spec("z", DType::kBytes, {-1}));
  return s;
}

struct Seed {
  std::string text;
  std::optional<std::uint64_t> json_length;
  bool tfs;
};

std::vector<Seed> corpus() {
  std::vector<Seed> seeds;
  seeds.push_back(
      {R"({"id":"\u00e9","parameters":{"priority":1,"timeout":5,"x":"y"},"inputs":[)"
       R"({"name":"f","shape":[2,2],"datatype":"FP32","data":[[1.5,-2e3],[0.123456789,NaN]]},)"
       R"({"name":"i","shape":[2],"datatype":"INT16","data":[32767,-5]},)"
       R"({"data":["a\n","\ud83d\ude00"],"name":"s","shape":[2],"datatype":"BYTES"}],)"
       R"("outputs":[{"name":"y","parameters":{"binary_data":true}},)"
       R"({"name":"z","parameters":{"binary_data":false}}]})",
       std::nullopt, false});
  const std::string json =
      R"({"inputs":[{"name":"f","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}},)"
      R"({"name":"i","shape":[2],"datatype":"INT16","parameters":{"binary_data_size":4}},)"
      R"({"name":"s","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":13}}],)"
      R"("outputs":[{"name":"y","parameters":{"classification":2}}],)"
      R"("parameters":{"binary_data_output":true}})";
  seeds.push_back({json + std::string(12, '\1') + packed({"hello", ""}), json.size(), false});
  seeds.push_back({R"({"signature_name":"serving_default","instances":[)"
                   R"({"f":[1,2.5],"i":3,"s":{"b64":"aGVsbG8="}},)"
                   R"({"f":[1e5,-0.25],"i":-3,"s":"x\u0041"}]})",
                   std::nullopt, true});
  seeds.push_back(
      {R"({"inputs":{"f":[[1,2],[3,4]],"i":[1,2,3],"s":["a","b"],"more":[{"k":null}]}})",
       std::nullopt, true});
  return seeds;
}

std::string damage(Random& random, std::string text, const std::vector<Seed>& seeds) {
  static constexpr std::string_view kTokens[] = {
      "[",    "]",     "{",  "}",           ",",
      ":",    "\"",    "\\", "\\u",         "null",
      "true", "1e999", "-",  "0",           "NaN",
      "\xff", "\xc3",  "[[", "{\"b64\":\"", "99999999999999999999",
      ".",    "e",     " ",  "\"data\":"};
  for (std::uint64_t k = 1 + random() % 3; k > 0; --k) {
    const std::size_t at = random() % (text.size() + 1);
    const std::size_t length = random() % 12;
    switch (random() % 6) {
      case 0:
        if (at < text.size()) text[at] = static_cast<char>(random());
        break;
      case 1:
        text.erase(std::min(at, text.size()), length);
        break;
      case 2:
        text.insert(at, kTokens[random() % std::size(kTokens)]);
        break;
      case 3:
        text.insert(at, text.substr(random() % (text.size() + 1), length * 4));
        break;
      case 4:
        if (random() % 4 == 0) text.resize(at);
        break;
      default: {
        const std::string& other = seeds[random() % seeds.size()].text;
        text.insert(at, other.substr(random() % other.size(), length * 4));
      }
    }
  }
  return text;
}

TEST_CASE("damaged requests are refused or understood, never worse") {
  const std::vector<Seed> seeds = corpus();
  Codec codec(many_types(), 1 << 20);
  for (const Seed& seed : seeds) {
    const Status status = seed.tfs ? codec.tfs(seed.text) : codec.oip(seed.text, seed.json_length);
    CAPTURE(status.message());
    REQUIRE(status.ok());
  }
  Random random(22);
  int accepted = 0;
  for (int round = 0; round < 80'000; ++round) {
    const Seed& seed = seeds[random() % seeds.size()];
    const std::string text = damage(random, seed.text, seeds);
    // An exact copy on the heap, so that a sanitizer sees every byte read behind its end.
    const std::vector<char> body(text.begin(), text.end());
    const std::string_view view(body.data(), body.size());
    std::optional<std::uint64_t> length = seed.json_length;
    if (length && random() % 2) *length = random() % (text.size() + 2);
    const Status status = seed.tfs ? codec.tfs(view) : codec.oip(view, length);
    if (status.ok()) {
      ++accepted;
      if (length == std::uint64_t{0}) continue;
      for (const InputTensor& input : codec.request.inputs) {
        const auto bytes = input.view.shape.byte_count(input.view.dtype);
        REQUIRE(bytes.has_value());
        if (input.view.dtype != DType::kBytes) REQUIRE(*bytes == input.view.bytes);
      }
      continue;
    }
    const bool known = status.code() == Code::kInvalidArgument ||
                       status.code() == Code::kTooLarge || status.code() == Code::kUnimplemented;
    REQUIRE(known);
    REQUIRE(status.message().size() < 600);
    // The message can be sent: it is UTF-8, once escaped it is JSON.
    std::string json;
    append_error_json(status.message(), json);
    REQUIRE(!contains(json, "\xEF\xBF\xBD"));
    JsonReader reader(json);
    REQUIRE(reader.skip_value(0));
    REQUIRE(reader.end_document());
  }
  CHECK(accepted > 1000);
  CHECK(accepted < 60'000);
}

}  // namespace
}  // namespace servolley::codec
