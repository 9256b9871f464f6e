#include "codec/classification.h"

#include <cmath>

#include "codec/base64.h"
#include "codec/codec_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

template <class T>
std::string classes(DType dtype, const Shape& shape, const std::vector<T>& values, std::uint32_t k,
                    bool batched, std::vector<std::string> labels = {}) {
  Pool pool(cpu_device(), {});
  TensorSpec output = spec("y", dtype, shape);
  output.labels = std::move(labels);
  const std::string data = raw(values);
  const auto result = classify(view_of(dtype, shape, data), output, batched, k, pool);
  if (!result) return result.error().message();
  CHECK(result->view.dtype == DType::kBytes);
  return result->view.shape.to_string() + data_of(result->view);
}

TEST_CASE("the best k of every row, as Triton prints them") {
  CHECK(classes<float>(DType::kFp32, {2, 3}, {0.1f, 0.7f, 0.2f, 5, -1, 6}, 2, true) ==
        "[2,2]" + packed({"0.700000:1", "0.200000:2", "6.000000:2", "5.000000:0"}));
  CHECK(classes<float>(DType::kFp32, {2, 3}, {0.1f, 0.7f, 0.2f, 5, -1, 6}, 2, false) ==
        "[2]" + packed({"6.000000:5", "5.000000:3"}));
  CHECK(classes<float>(DType::kFp32, {1, 2}, {0, 1}, 9, true, {"cat", "dog"}) ==
        "[1,2]" + packed({"1.000000:1:dog", "0.000000:0:cat"}));
  CHECK(classes<float>(DType::kFp32, {1, 2}, {0, 1}, 9, true, {"cat"}) ==
        "[1,2]" + packed({"1.000000:1", "0.000000:0:cat"}));
  CHECK(classes<double>(DType::kFp64, {3}, {1e15, 2.5, 1e-9}, 3, false) ==
        "[3]" + packed({"1000000000000000.000000:0", "2.500000:1", "0.000000:2"}));
  CHECK(classes<std::int8_t>(DType::kInt8, {1, 3}, {-5, 7, 7}, 3, true) ==
        "[1,3]" + packed({"7:1", "7:2", "-5:0"}));
  CHECK(classes<std::uint64_t>(DType::kUint64, {1, 2}, {18446744073709551615u, 1}, 1, true) ==
        "[1,1]" + packed({"18446744073709551615:0"}));
  const float nan = std::nanf("");
  CHECK(classes<float>(DType::kFp32, {4}, {nan, 1, nan, 2}, 4, false) ==
        "[4]" + packed({"2.000000:3", "1.000000:1", "nan:0", "nan:2"}));
}

TEST_CASE("the edges of classification") {
  CHECK(classes<float>(DType::kFp32, {0, 3}, {}, 2, true) == "[0,2]");
  CHECK(classes<float>(DType::kFp32, {2, 0}, {}, 2, true) == "[2,0]");
  CHECK(classes<float>(DType::kFp32, {2}, {1, 2}, 1, true) ==
        "[2,1]" + packed({"1.000000:0", "2.000000:0"}));
  CHECK(contains(classes<std::uint8_t>(DType::kBool, {2}, {0, 1}, 1, false), "needs an integer"));
  CHECK(contains(classes<std::uint16_t>(DType::kFp16, {2}, {0, 1}, 1, false), "needs an integer"));
  std::vector<std::uint8_t> many(kMaxClassifiedElements + 1);
  CHECK(contains(classes(DType::kUint8, {std::int64_t{1'000'001}}, many, 1, false), "too many"));
  many.pop_back();
  many[777'777] = 9;
  CHECK(classes(DType::kUint8, {std::int64_t{1'000'000}}, many, 1, false) ==
        "[1]" + packed({"9:777777"}));
}

TEST_CASE("a classified output in an answer") {
  Signature s = signature(DType::kFp32, {-1, 3}, true);
  s.outputs[0].labels = {"a", "b", "c"};
  const std::string data = raw<float>({1, 3, 2});
  const OutputView view{view_of(DType::kFp32, {1, 3}, data), nullptr};
  for (const bool binary : {false, true}) {
    Codec codec(s);
    codec.request.outputs = {{.index = 0,
                              .form = binary ? OutputForm::kBinary : OutputForm::kJson,
                              .classification = 2}};
    const auto info =
        encode_oip_json(codec.request, {&view, 1}, codec.encode_context(), codec.payload);
    REQUIRE(info.has_value());
    const std::string text = text_of(codec.payload);
    CHECK(contains(text, R"("name":"y","datatype":"BYTES","shape":[1,2])"));
    if (binary) {
      CHECK(text.substr(info->json_length) == packed({"3.000000:1:b", "2.000000:2:c"}));
    } else {
      CHECK(contains(text, R"("data":["3.000000:1:b","2.000000:2:c"])"));
    }
  }
}

TEST_CASE("base64 both ways") {
  const auto encode = [](std::string_view data) {
    std::string out(base64_size(data.size()), ' ');
    CHECK(put_base64(out.data(), data) == out.data() + out.size());
    return out;
  };
  const auto decode = [](std::string_view text) -> std::string {
    std::string out(base64_bytes(text.size()), ' ');
    const auto size = decode_base64(text, out.data());
    return size ? out.substr(0, *size) : "refused";
  };
  CHECK(encode("") == "");
  CHECK(encode("f") == "Zg==");
  CHECK(encode("fo") == "Zm8=");
  CHECK(encode("foobar") == "Zm9vYmFy");
  CHECK(decode("Zm9v") == "foo");
  CHECK(decode("Zm8") == "fo");
  CHECK(decode("Zg") == "f");
  for (const char* bad :
       {"Z", "Zg=", "Zm8==", "Zm9v=", "====", "Zm 9v", "Zm9-", "Zm9_", "Z=g=", "="}) {
    CAPTURE(bad);
    CHECK(decode(bad) == "refused");
  }
  std::string all;
  for (int i = 0; i < 1000; ++i) {
    CHECK(decode(encode(all)) == all);
    all += static_cast<char>(i * 37);
  }
}

}  // namespace
}  // namespace servolley::codec
