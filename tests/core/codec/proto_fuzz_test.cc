// Random tensors through both gRPC dialects and back, and random damage to valid requests.

#include <random>

#include "codec/proto_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

using Random = std::mt19937_64;

std::string random_data(Random& random, DType dtype, std::size_t elements) {
  if (dtype == DType::kBytes) {
    std::vector<std::string> strings(elements);
    for (std::string& s : strings) {
      s.resize(random() % 200);
      for (char& c : s) c = static_cast<char>(random());
    }
    return packed(strings);
  }
  std::string data(elements * element_size(dtype), '\0');
  for (char& c : data) c = static_cast<char>(random());
  // Small numbers are as likely as wide ones.
  if (element_size(dtype) > 1 && random() % 2) {
    for (std::size_t i = 0; i < data.size(); i += element_size(dtype)) {
      for (std::size_t k = 1; k < element_size(dtype); ++k) data[i + k] = '\0';
    }
  }
  if (dtype == DType::kBool) {
    for (char& c : data) c = static_cast<char>(c & 1);
  }
  return data;
}

// The values of a PredictResponse's first output as the tensor of a PredictRequest's input.
std::string as_request(const std::string& answer) {
  pbf_reader reader(answer);
  REQUIRE(reader.next(1));
  pbf_reader entry = reader.get_message();
  REQUIRE(entry.next(2));
  return model_spec() + tf_input("x", entry.get_string());
}

TEST_CASE("random tensors survive Predict both ways, and raw ModelInfer, bit by bit") {
  Random random(31);
  for (int round = 0; round < 4000; ++round) {
    const auto dtype = static_cast<DType>(random() % kDTypeCount);
    Shape shape;
    const std::uint64_t rank = random() % 4;
    for (std::uint64_t i = 0; i < rank; ++i) {
      shape.push_back(static_cast<std::int64_t>(random() % 15));
    }
    CAPTURE(oip_name(dtype));
    CAPTURE(shape.to_string());
    const std::string data =
        random_data(random, dtype, static_cast<std::size_t>(*shape.element_count()));
    const OutputView view{view_of(dtype, shape, data), nullptr};
    Codec codec(signature(dtype, shape));

    for (const bool content : {false, true}) {
      codec.request.outputs = {{.index = 0, .form = OutputForm::kBinary, .classification = 0}};
      codec.payload.clear();
      REQUIRE(encode_tfs_proto(codec.request, {&view, 1}, codec.encode_context(), content,
                               codec.payload)
                  .ok());
      const std::string message = as_request(text_of(codec.payload));
      const Status status = decode_tfs(codec, message);
      CAPTURE(status.message());
      REQUIRE(status.ok());
      REQUIRE(codec.request.inputs[0].view.shape == shape);
      REQUIRE(data_of(codec.request.inputs[0].view) == data);
    }

    codec.payload.clear();
    REQUIRE(encode_oip_proto(codec.request, {&view, 1}, codec.encode_context(), round % 2 == 0,
                             codec.payload)
                .ok());
    const OipAnswer answer = read_oip_answer(text_of(codec.payload));
    const std::string message =
        oip_input("x", answer.outputs[0].datatype, answer.outputs[0].shape) +
        raw_entry(answer.raw[0]);
    REQUIRE(decode_oip(codec, message).ok());
    REQUIRE(codec.request.inputs[0].view.shape == shape);
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
  bool tfs;
};

std::vector<Seed> corpus() {
  const std::string floats = raw<float>({1, 2, 3, 4});
  const std::string more = bytes(1, "m") + bytes(2, "1") + bytes(3, "r\xc3\xa9") +
                           parameter("timeout", int_param(5)) + parameter("x", string_param("y")) +
                           bytes(6, bytes(1, "y") + parameter("classification", int_param(1), 2)) +
                           bytes(6, bytes(1, "z"));
  return {
      {more + oip_input("f", "FP32", {2, 2}) + oip_input("i", "INT16", {2}) +
           oip_input("s", "BYTES", {2}) + raw_entry(floats) + raw_entry("abcd") +
           raw_entry(packed({"a", "bcd"})),
       false},
      {oip_input("s", "BYTES", {2}, contents(bytes(8, "a") + bytes(8, "bc"))) +
           oip_input("f", "FP32", {2, 2}, contents(bytes(6, floats))) +
           oip_input("i", "INT16", {3}, contents(packed_varints<int>(2, {-1, 300, 5}))) + more,
       false},
      {model_spec(bytes(2, varint(1, 3)) + bytes(3, "serving_default")) +
           tf_input("f", tf_tensor(1, {3, 2}, bytes(5, floats))) +
           tf_input("i", tf_tensor(5, {4}, packed_varints<int>(7, {-1, 300}))) +
           tf_input("s", tf_tensor(7, {3}, bytes(8, "ab") + bytes(8, "c"))) + bytes(3, "z"),
       true},
      {tf_input("s", tf_tensor(7, {3}, bytes(4, std::string("\1\0\2abc", 6)))) +
           tf_input("f", tf_tensor(1, {2, 2}, bytes(4, floats))) +
           tf_input("i", tf_tensor(5, {1, 2}, bytes(4, "abcd"))) + bytes(3, "y") + bytes(3, "z") +
           model_spec(bytes(4, "stable")),
       true},
  };
}

void damage(Random& random, std::string& text, const std::vector<Seed>& seeds) {
  const auto place = [&] { return random() % (text.size() + 1); };
  switch (random() % 7) {
    case 0:
      if (!text.empty()) text[random() % text.size()] ^= static_cast<char>(1u << random() % 8);
      break;
    case 1:
      if (!text.empty()) text[random() % text.size()] = static_cast<char>(random());
      break;
    case 2:
      text.resize(place());
      break;
    case 3:
      text.insert(place(), 1 + random() % 3, static_cast<char>(random()));
      break;
    case 4:
      text.erase(place(), random() % 8);
      break;
    case 5: {  // a piece of another request
      const std::string& other = seeds[random() % seeds.size()].text;
      const std::size_t from = random() % other.size();
      text.insert(place(), other, from, random() % 24);
      break;
    }
    default:  // numbers that are near a limit
      if (!text.empty()) {
        constexpr unsigned char kEdges[] = {0x00, 0x01, 0x7f, 0x80, 0xff, 0x08, 0x0a, 0x12};
        text[random() % text.size()] = static_cast<char>(kEdges[random() % sizeof kEdges]);
      }
  }
}

// Everything that an accepted request says about its tensors holds.
void check_accepted(const InferRequest& request, const Signature& signature) {
  REQUIRE(request.inputs.size() == signature.inputs.size());
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    const TensorView& view = request.inputs[i].view;
    REQUIRE(view.data != nullptr);
    REQUIRE(view.dtype == signature.inputs[i].dtype);
    const auto elements = view.shape.element_count();
    REQUIRE(elements.has_value());
    std::size_t sum = 0;  // reads every byte, for the sanitizers
    for (const std::byte b : view.span()) sum += std::to_integer<std::size_t>(b);
    CHECK(sum <= view.bytes * 255);
    if (view.dtype != DType::kBytes) {
      REQUIRE(view.bytes == view.shape.byte_count(view.dtype));
      continue;
    }
    std::size_t found = 0;
    for (std::size_t at = 0; at < view.bytes; ++found) {
      std::uint32_t length = 0;
      REQUIRE(view.bytes - at >= sizeof length);
      std::memcpy(&length, view.data + at, sizeof length);
      REQUIRE(view.bytes - at - sizeof length >= length);
      at += sizeof length + length;
    }
    REQUIRE(found == static_cast<std::size_t>(*elements));
  }
  REQUIRE_FALSE(request.outputs.empty());
}

TEST_CASE("damaged messages are refused or read, never misread") {
  Random random(32);
  const std::vector<Seed> seeds = corpus();
  Codec codec(many_types(), std::size_t{1} << 20);
  for (const Seed& seed : seeds) {
    const Status status = seed.tfs ? decode_tfs(codec, seed.text) : decode_oip(codec, seed.text);
    CAPTURE(status.message());
    REQUIRE(status.ok());
  }
  int accepted = 0;
  int refused = 0;
  for (int round = 0; round < 40'000; ++round) {
    const Seed& seed = seeds[random() % seeds.size()];
    std::string text = seed.text;
    for (std::uint64_t times = 1 + random() % 3; times > 0; --times) damage(random, text, seeds);
    // In memory of exactly its size, so that reading behind it is seen.
    const std::vector<std::byte> exact(bytes_of(text).begin(), bytes_of(text).end());
    const std::span<const std::byte> message(exact);
    if (seed.tfs) {
      static_cast<void>(read_tfs_head(message).has_value());
    } else {
      static_cast<void>(read_oip_head(message).has_value());
    }
    const Status status = seed.tfs
                              ? decode_tfs_proto(message, codec.decode_context(), codec.request)
                              : decode_oip_proto(message, codec.decode_context(), codec.request);
    if (status.ok()) {
      ++accepted;
      check_accepted(codec.request, codec.signature);
      continue;
    }
    ++refused;
    CAPTURE(status.message());
    const Code code = status.code();
    const bool expected = code == Code::kInvalidArgument || code == Code::kTooLarge ||
                          code == Code::kUnimplemented || code == Code::kFailedPrecondition;
    REQUIRE(expected);
    REQUIRE(status.message().size() < 1000);
  }
  CHECK(accepted > 1000);
  CHECK(refused > 1000);
}

}  // namespace
}  // namespace servolley::codec
