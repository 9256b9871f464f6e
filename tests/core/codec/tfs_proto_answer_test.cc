#include "codec/proto_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

struct TfTensor {
  int datatype = 0;
  std::vector<std::int64_t> shape;
  std::string content;
  std::vector<std::string> strings;
  std::vector<std::int64_t> integers;
  std::vector<double> floats;
  std::uint32_t field = 0;
};

TfTensor read_tensor(const std::string& message) {
  TfTensor out;
  pbf_reader reader(message);
  while (reader.next()) {
    switch (reader.tag()) {
      case 1:
        out.datatype = reader.get_int32();
        break;
      case 2: {
        pbf_reader dims = reader.get_message();
        while (dims.next(2)) {
          pbf_reader dim = dims.get_message();
          while (dim.next(1)) out.shape.push_back(dim.get_int64());
        }
        break;
      }
      case 4:
        out.content = reader.get_string();
        break;
      case 5:
        out.field = 5;
        for (const float v : reader.get_packed_float()) out.floats.push_back(v);
        break;
      case 6:
        out.field = 6;
        for (const double v : reader.get_packed_double()) out.floats.push_back(v);
        break;
      case 8:
        out.field = 8;
        out.strings.push_back(reader.get_string());
        break;
      default:
        out.field = reader.tag();
        for (const std::int64_t v : reader.get_packed_int64()) out.integers.push_back(v);
    }
  }
  return out;
}

struct Answer {
  std::vector<std::pair<std::string, TfTensor>> outputs;
  std::string model, signature;
  std::int64_t version = 0;
};

Answer read_answer(const std::string& message) {
  Answer out;
  pbf_reader reader(message);
  while (reader.next()) {
    const auto field = reader.tag();
    pbf_reader inner = reader.get_message();
    if (field == 1) {
      REQUIRE(inner.next(1));
      const std::string name = inner.get_string();
      REQUIRE(inner.next(2));
      out.outputs.emplace_back(name, read_tensor(inner.get_string()));
      continue;
    }
    REQUIRE(field == 2);
    while (inner.next()) {
      if (inner.tag() == 1) out.model = inner.get_string();
      if (inner.tag() == 3) out.signature = inner.get_string();
      if (inner.tag() == 2) {
        pbf_reader value = inner.get_message();
        while (value.next(1)) out.version = value.get_int64();
      }
    }
  }
  return out;
}

Answer encode_one(DType dtype, const Shape& shape, const std::string& data, bool tensor_content) {
  Codec codec(signature(dtype, shape));
  codec.request.outputs = {{.index = 0, .form = OutputForm::kBinary, .classification = 0}};
  const OutputView output{view_of(dtype, shape, data), nullptr};
  REQUIRE(encode_tfs_proto(codec.request, {&output, 1}, codec.encode_context(), tensor_content,
                           codec.payload)
              .ok());
  return read_answer(text_of(codec.payload));
}

template <class T>
void check_answer(DType dtype, std::uint32_t field, const std::vector<T>& values) {
  CAPTURE(tf_name(dtype));
  const Shape shape{1, static_cast<std::int64_t>(values.size())};
  const Answer typed = encode_one(dtype, shape, raw(values), false);
  CHECK(typed.model == "m");
  CHECK(typed.version == 3);
  CHECK(typed.signature == "serving_default");
  REQUIRE(typed.outputs.size() == 1);
  const auto& [name, tensor] = typed.outputs[0];
  CHECK(name == "y");
  CHECK(tensor.datatype == tf_number(dtype));
  CHECK(tensor.shape == std::vector<std::int64_t>{1, static_cast<std::int64_t>(values.size())});
  CHECK(tensor.field == field);
  CHECK(tensor.content.empty());
  REQUIRE(tensor.integers.size() + tensor.floats.size() == values.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (tensor.floats.empty()) {
      CHECK(tensor.integers[i] == static_cast<std::int64_t>(values[i]));
    } else {
      CHECK(tensor.floats[i] == static_cast<double>(values[i]));
    }
  }
  const Answer dense = encode_one(dtype, shape, raw(values), true);
  CHECK(dense.outputs[0].second.content == raw(values));
  CHECK(dense.outputs[0].second.field == 0);
}

TEST_CASE("answers carry every datatype in its typed field, or as tensor_content") {
  check_answer<std::uint8_t>(DType::kBool, 11, {1, 0, 1});
  check_answer<std::int8_t>(DType::kInt8, 7, {-128, 127, -1});
  check_answer<std::int16_t>(DType::kInt16, 7, {-32768, 32767, 300});
  check_answer<std::int32_t>(DType::kInt32, 7,
                             {std::numeric_limits<std::int32_t>::min(), 2147483647, 128});
  check_answer<std::int64_t>(
      DType::kInt64, 10,
      {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max(), 127});
  check_answer<std::uint8_t>(DType::kUint8, 7, {0, 255, 128});
  check_answer<std::uint16_t>(DType::kUint16, 7, {0, 65535, 300});
  check_answer<std::uint32_t>(DType::kUint32, 16, {0, 4294967295, 16384});
  check_answer<std::uint64_t>(DType::kUint64, 17, {0, 18446744073709551615u, 16383});
  check_answer<std::uint16_t>(DType::kFp16, 13, {0x3C00, 0xFC00});
  check_answer<std::uint16_t>(DType::kBf16, 13, {0x3F80, 0xFF80});
  check_answer<float>(DType::kFp32, 5, {1, -2.5, 0.1f});
  check_answer<double>(DType::kFp64, 6, {1, -2.5, 1e300});
}

TEST_CASE("strings, scalars and empty tensors in answers") {
  const std::string wide(300, 'w');
  const std::string data = packed({"ab", "", wide});
  CHECK(encode_one(DType::kBytes, {3}, data, false).outputs[0].second.strings ==
        std::vector<std::string>{"ab", "", wide});
  CHECK(encode_one(DType::kBytes, {3}, data, true).outputs[0].second.content ==
        std::string("\2\0\xac\2ab", 6) + wide);
  const TfTensor scalar = encode_one(DType::kFp32, {}, raw<float>({2}), false).outputs[0].second;
  CHECK(scalar.shape.empty());
  CHECK(scalar.floats == std::vector<double>{2});
  for (const bool content : {false, true}) {
    const TfTensor empty = encode_one(DType::kFp32, {2, 0}, "", content).outputs[0].second;
    CHECK(empty.shape == std::vector<std::int64_t>{2, 0});
    CHECK(empty.floats.empty());
  }
  Codec codec(signature(DType::kBytes, {-1}));
  codec.request.outputs = {{.index = 0, .form = OutputForm::kBinary, .classification = 0}};
  const std::string broken("\5\0\0\0abc", 7);
  const OutputView output{view_of(DType::kBytes, {1}, broken), nullptr};
  CHECK(encode_tfs_proto(codec.request, {&output, 1}, codec.encode_context(), false, codec.payload)
            .code() == Code::kInternal);
  CHECK(codec.payload.size() == 0);
}

TEST_CASE("answers list the requested outputs; large floats are sent from where they lie") {
  Signature s = signature(DType::kFp32, {-1});
  s.outputs.push_back(spec("z", DType::kInt32, {-1}));
  Codec codec(s);
  codec.request.outputs = {{.index = 1, .form = OutputForm::kBinary, .classification = 0},
                           {.index = 0, .form = OutputForm::kBinary, .classification = 0}};
  Buffer owner = std::move(*codec.pool.allocate(40'000));
  std::memset(owner.data(), 1, 40'000);
  const OutputView outputs[] = {{{DType::kFp32, {10'000}, owner.data(), 40'000}, &owner},
                                {{DType::kInt32, {10'000}, owner.data(), 40'000}, &owner}};
  for (const bool content : {false, true}) {
    codec.payload.clear();
    REQUIRE(encode_tfs_proto(codec.request, outputs, codec.encode_context(), content, codec.payload)
                .ok());
    // Integers have to be written as varints unless they go as content.
    CHECK(codec.payload.segments().size() == (content ? 5 : 3));
    CHECK(codec.payload.segments()[content ? 3 : 1].data == owner.data());
    CHECK_FALSE(owner.unique());
    const Answer answer = read_answer(text_of(codec.payload));
    REQUIRE(answer.outputs.size() == 2);
    CHECK(answer.outputs[0].first == "z");
    CHECK(answer.outputs[1].first == "y");
    const TfTensor& y = answer.outputs[1].second;
    CHECK((content ? y.content.size() / 4 : y.floats.size()) == 10'000);
  }
  codec.payload.clear();
  CHECK(owner.unique());
}

}  // namespace
}  // namespace servolley::codec
