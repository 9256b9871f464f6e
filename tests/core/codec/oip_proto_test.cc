#include "codec/proto_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

Status one_input(Codec& codec, const std::string& dtype, const std::vector<std::int64_t>& shape,
                 const std::string& data_fields) {
  return decode_oip(codec, oip_input("x", dtype, shape, contents(data_fields)));
}

template <class T>
void check_typed(DType dtype, std::uint32_t field, const std::vector<T>& values) {
  CAPTURE(oip_name(dtype));
  Codec codec(signature(dtype, {-1, 2}));
  const std::vector<T> front(values.begin(), values.begin() + 1);
  const std::vector<T> back(values.begin() + 1, values.end());
  const std::string name(oip_name(dtype));
  for (const std::string& fields :
       {packed_varints(field, values), single_varints(field, values),
        packed_varints(field, front) + varint(99, 7) + single_varints(field, back),
        packed_varints(field, std::vector<T>()) + packed_varints(field, values)}) {
    const Status status = one_input(codec, name, {2, 2}, fields);
    CAPTURE(status.message());
    REQUIRE(status.ok());
    const InputTensor& input = codec.request.inputs[0];
    CHECK(input.owner);
    CHECK(reinterpret_cast<std::uintptr_t>(input.view.data) % 64 == 0);
    CHECK(input.view.dtype == dtype);
    CHECK(input.view.shape == Shape{2, 2});
    CHECK(data_of(input.view) == raw(values));
  }
  // Two 'contents' of one input are one message in two parts.
  REQUIRE(decode_oip(codec, oip_input("x", name, {2, 2},
                                      contents(packed_varints(field, front)) +
                                          contents(packed_varints(field, back))))
              .ok());
  CHECK(data_of(codec.request.inputs[0].view) == raw(values));
}

TEST_CASE("typed contents of every integer type, packed and not") {
  check_typed<std::uint8_t>(DType::kBool, 1, {1, 0, 0, 1});
  check_typed<std::int8_t>(DType::kInt8, 2, {-128, -1, 0, 127});
  check_typed<std::int16_t>(DType::kInt16, 2, {-32768, -1, 300, 32767});
  check_typed<std::int32_t>(DType::kInt32, 2,
                            {std::numeric_limits<std::int32_t>::min(), -1, 0, 2147483647});
  check_typed<std::int64_t>(
      DType::kInt64, 3,
      {std::numeric_limits<std::int64_t>::min(), -1, 0, std::numeric_limits<std::int64_t>::max()});
  check_typed<std::uint8_t>(DType::kUint8, 4, {0, 1, 128, 255});
  check_typed<std::uint16_t>(DType::kUint16, 4, {0, 1, 300, 65535});
  check_typed<std::uint32_t>(DType::kUint32, 4, {0, 1, 300, 4294967295});
  check_typed<std::uint64_t>(DType::kUint64, 5, {0, 1, 300, 18446744073709551615u});
}

TEST_CASE("a true that is not 1 becomes 1") {
  Codec codec(signature(DType::kBool, {-1}));
  REQUIRE(one_input(codec, "BOOL", {3}, packed_varints<std::int64_t>(1, {2, -1, 0})).ok());
  CHECK(data_of(codec.request.inputs[0].view) == raw<std::uint8_t>({1, 1, 0}));
}

TEST_CASE("typed contents of floats") {
  const std::vector<float> floats{1, -2.5, 0.1f, std::numeric_limits<float>::infinity()};
  Codec f(signature(DType::kFp32, {-1, 2}));
  const std::string packed32 =
      proto([&](pbf_writer& w) { w.add_packed_float(6, floats.begin(), floats.end()); });
  std::string single32;
  for (const float v : floats) single32 += proto([&](pbf_writer& w) { w.add_float(6, v); });
  for (const std::string& fields : {packed32, single32}) {
    REQUIRE(one_input(f, "FP32", {2, 2}, fields).ok());
    CHECK(data_of(f.request.inputs[0].view) == raw(floats));
  }
  const std::vector<double> doubles{1, -2.5, 0.1, 1e300};
  Codec d(signature(DType::kFp64, {-1, 2}));
  const std::string packed64 =
      proto([&](pbf_writer& w) { w.add_packed_double(7, doubles.begin(), doubles.end()); });
  std::string single64;
  for (const double v : doubles) single64 += proto([&](pbf_writer& w) { w.add_double(7, v); });
  for (const std::string& fields : {packed64, single64}) {
    REQUIRE(one_input(d, "FP64", {2, 2}, fields).ok());
    CHECK(data_of(d.request.inputs[0].view) == raw(doubles));
  }
  // 4 values that do not fill the field.
  CHECK(one_input(f, "FP32", {2, 2}, bytes(6, std::string(17, '\0'))).code() ==
        Code::kInvalidArgument);
  CHECK(one_input(d, "FP64", {2, 2}, bytes(7, std::string(36, '\0'))).code() ==
        Code::kInvalidArgument);
}

TEST_CASE("typed BYTES are packed") {
  Codec codec(signature(DType::kBytes, {-1}));
  const std::vector<std::string> values{"a", "", std::string("\0\xff", 2), std::string(300, 'z')};
  std::string fields;
  for (const std::string& v : values) fields += bytes(8, v);
  REQUIRE(one_input(codec, "BYTES", {4}, fields).ok());
  CHECK(codec.request.inputs[0].owner);
  CHECK(data_of(codec.request.inputs[0].view) == packed(values));
  CHECK(one_input(codec, "BYTES", {3}, fields).code() == Code::kInvalidArgument);
  CHECK(one_input(codec, "BYTES", {5}, fields).code() == Code::kInvalidArgument);
}

TEST_CASE("typed values must fit their datatype") {
  const auto with = [](DType dtype, std::uint32_t field, std::int64_t value) {
    Codec codec(signature(dtype, {-1}));
    const std::string name(oip_name(dtype));
    const Status status =
        one_input(codec, name, {2}, packed_varints<std::int64_t>(field, {0, value}));
    if (!status.ok()) {
      CHECK(status.code() == Code::kInvalidArgument);
      CHECK(contains(status.message(), "element 1 of input 'x' does not fit " + name));
    }
    return status.ok();
  };
  CHECK(with(DType::kInt8, 2, 127));
  CHECK_FALSE(with(DType::kInt8, 2, 128));
  CHECK_FALSE(with(DType::kInt8, 2, -129));
  CHECK_FALSE(with(DType::kInt16, 2, 32768));
  CHECK_FALSE(with(DType::kInt16, 2, -32769));
  CHECK_FALSE(with(DType::kUint8, 4, 256));
  CHECK_FALSE(with(DType::kUint8, 4, -1));
  CHECK_FALSE(with(DType::kUint16, 4, 65536));
}

TEST_CASE("typed contents: the right field, alone, with the right number of values") {
  Codec codec(signature(DType::kFp32, {-1}));
  const std::vector<float> floats{1, 2};
  const std::string right =
      proto([&](pbf_writer& w) { w.add_packed_float(6, floats.begin(), floats.end()); });
  CHECK(one_input(codec, "FP32", {2}, right).ok());
  CHECK(one_input(codec, "FP32", {2}, right + packed_varints<int>(2, {})).ok());
  const auto refused = [&](const std::string& fields, const std::vector<std::int64_t>& shape,
                           std::string_view text) {
    const Status status = one_input(codec, "FP32", shape, fields);
    CHECK(status.code() == Code::kInvalidArgument);
    CHECK(contains(status.message(), text));
  };
  refused(right + packed_varints<int>(2, {1}), {2}, "'int_contents'");
  refused(packed_varints<int>(2, {1, 2}), {2}, "belongs into 'fp32_contents'");
  refused(right, {1}, "unexpected number of elements");
  refused(right, {3}, "unexpected number of elements");
  refused("", {2}, "unexpected number of elements");
  CHECK(one_input(codec, "FP32", {0}, "").ok());
  CHECK(codec.request.inputs[0].view.data != nullptr);
  for (const DType half : {DType::kFp16, DType::kBf16}) {
    Codec halves(signature(half, {-1}));
    const Status status =
        one_input(halves, std::string(oip_name(half)), {2}, packed_varints<int>(4, {1, 2}));
    CHECK(status.code() == Code::kInvalidArgument);
    CHECK(contains(status.message(), "use 'raw_input_contents'"));
  }
}

TEST_CASE("raw data of every datatype is a view, wherever it lies") {
  for (std::size_t i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    CAPTURE(oip_name(dtype));
    const std::size_t size = element_size(dtype);
    std::string data = packed({"ab", "", "c"});
    if (size) {
      data.clear();
      for (std::size_t k = 0; k < 3 * size; ++k) data += static_cast<char>(k * 37);
    }
    Codec codec(signature(dtype, {-1}));
    const std::string message = oip_input("x", std::string(oip_name(dtype)), {3}) + raw_entry(data);
    for (std::size_t offset = 0; offset < 8; ++offset) {
      alignas(64) std::array<std::byte, 256> memory{};
      REQUIRE(message.size() + offset <= memory.size());
      std::memcpy(memory.data() + offset, message.data(), message.size());
      REQUIRE(decode_oip_proto({memory.data() + offset, message.size()}, codec.decode_context(),
                               codec.request)
                  .ok());
      const InputTensor& input = codec.request.inputs[0];
      CHECK(data_of(input.view) == data);
      const std::byte* const place = memory.data() + offset + message.size() - data.size();
      CHECK_FALSE(input.owner);
      CHECK(input.view.data == place);
    }
  }
}

Signature two_inputs() {
  Signature s = signature(DType::kFp32, {-1, 2}, true);
  s.inputs.push_back(spec("b", DType::kBytes, {-1}));
  s.outputs.push_back(spec("z", DType::kBytes, {-1}));
  return s;
}

TEST_CASE("raw entries follow the order of the inputs, wherever the fields lie") {
  Codec codec(two_inputs());
  const std::string x = oip_input("x", "FP32", {1, 2});
  const std::string b = oip_input("b", "BYTES", {1});
  const std::string floats = raw_entry(raw<float>({1, 2}));
  const std::string strings = raw_entry(packed({"hello"}));
  for (const std::string& message :
       {x + b + floats + strings, b + x + strings + floats, strings + b + floats + x,
        b + strings + x + varint(1000, 3) + floats + bytes(3, "id")}) {
    const Status status = decode_oip(codec, message);
    CAPTURE(status.message());
    REQUIRE(status.ok());
    CHECK(data_of(codec.request.inputs[0].view) == raw<float>({1, 2}));
    CHECK(data_of(codec.request.inputs[1].view) == packed({"hello"}));
    REQUIRE(codec.request.outputs.size() == 2);
    CHECK(codec.request.outputs[1].index == 1);
    CHECK(codec.request.outputs[1].form == OutputForm::kBinary);
  }
}

TEST_CASE("inputs that do not fit are refused") {
  Codec codec(two_inputs());
  const std::string x = oip_input("x", "FP32", {1, 2});
  const std::string b = oip_input("b", "BYTES", {1});
  const std::string floats = raw_entry(raw<float>({1, 2}));
  const std::string strings = raw_entry(packed({"hello"}));
  const auto refused = [&](const std::string& message, std::string_view text) {
    const Status status = decode_oip(codec, message);
    CAPTURE(text);
    CAPTURE(status.message());
    CHECK(status.code() == Code::kInvalidArgument);
    CHECK(contains(status.message(), text));
  };
  refused("", "expected 2 inputs but got 0");
  refused(x + floats, "missing 'b'");
  refused(x + b + floats, "unexpected number of 'raw_input_contents'");
  refused(x + b + floats + strings + strings, "3 for 2 inputs");
  refused(x + b + strings + floats, "unexpected size for input 'x'");
  refused(x + b, "no data for input 'x'");
  refused(x + x + floats + floats, "given twice");
  refused(x + b + oip_input("other", "FP32", {1}) + floats + strings,
          "unexpected inference input 'other'");
  refused(x + oip_input("b", "BYTES", {1}, contents(bytes(8, "hello"))) + floats,
          "must not have both");
  refused(x + oip_input("b", "BYTES", {1}, contents(bytes(8, "hello"))) + floats + strings,
          "must not have both");
  refused(oip_input("x", "FP64", {1, 2}) + b + floats + strings, "data-type is 'FP64'");
  refused(oip_input("x", "FP33", {1, 2}) + b, "unknown datatype 'FP33'");
  refused(bytes(5, bytes(1, "x")), "no 'datatype'");
  refused(bytes(5, bytes(2, "FP32")), "no 'name'");
  refused(x + oip_input("b", "BYTES", {2}) + floats + raw_entry(packed({"a", "b"})),
          "same first dimension");
  refused(x + b + floats + raw_entry("\x05\0\0\0hell"), "unexpected size");
  refused(x + b + floats + raw_entry(packed({"hello", "x"})), "behind element");
}

TEST_CASE("shapes are checked before anything is allocated for them") {
  Signature any = signature(DType::kFp32, {});
  any.inputs[0].rank_known = false;
  Codec codec(any);
  using Dims = std::vector<std::int64_t>;
  const std::int64_t huge = (std::int64_t{1} << 60) + 2;
  for (const Dims& shape :
       {Dims{16, huge}, Dims{4, huge}, Dims{2, -5}, Dims{-1},
        Dims{std::numeric_limits<std::int64_t>::min()}, Dims(17, 1), Dims(100'000, 1),
        Dims{1'000'000'000}, Dims{0, -1}, Dims{15}, Dims{17}}) {
    const auto before = codec.pool.stats().high_water_bytes;
    for (const std::string& unpacked :
         {oip_input("x", "FP32", shape) + raw_entry(std::string(64, '\0')),
          bytes(5, bytes(1, "x") + bytes(2, "FP32") + single_varints(3, shape)) +
              raw_entry(std::string(64, '\0')),
          oip_input("x", "FP32", shape, contents(bytes(6, std::string(64, '\0'))))}) {
      CHECK(decode_oip(codec, unpacked).code() == Code::kInvalidArgument);
    }
    CHECK(codec.pool.stats().high_water_bytes == before);
  }
  CHECK(decode_oip(codec, oip_input("x", "FP32", {16}) + raw_entry(std::string(64, '\0'))).ok());
  CHECK(decode_oip(codec, oip_input("x", "FP32", {}) + raw_entry(std::string(4, '\0'))).ok());
  CHECK(codec.request.inputs[0].view.shape.rank() == 0);
  CHECK(decode_oip(codec, oip_input("x", "FP32", {3, 0}) + raw_entry("")).ok());
}

TEST_CASE("the decoded bytes of typed contents are limited") {
  Codec codec(signature(DType::kInt64, {-1}), 800);
  const std::vector<int> hundred(100, 1);
  CHECK(one_input(codec, "INT64", {100}, packed_varints(3, hundred)).ok());
  const std::vector<int> more(101, 1);
  CHECK(one_input(codec, "INT64", {101}, packed_varints(3, more)).code() == Code::kTooLarge);
  Codec strings(signature(DType::kBytes, {-1}), 800);
  std::string fields;
  for (int i = 0; i < 201; ++i) fields += bytes(8, "");
  CHECK(one_input(strings, "BYTES", {201}, fields).code() == Code::kTooLarge);
}

TEST_CASE("singular fields: the last one counts") {
  Codec codec(signature(DType::kFp32, {-1}));
  const std::string input = bytes(
      5, bytes(1, "nobody") + bytes(2, "BYTES") + bytes(1, "x") + bytes(2, "FP32") + varint(3, 1));
  const std::string message = bytes(1, "old") + bytes(1, "m") + bytes(2, "1") + bytes(2, "7") +
                              bytes(3, "a") + bytes(3, "b") + input + raw_entry(raw<float>({1}));
  REQUIRE(decode_oip(codec, message).ok());
  CHECK(codec.request.id == "b");
  const auto head = read_oip_head(bytes_of(message));
  REQUIRE(head.has_value());
  CHECK(head->model == "m");
  CHECK(head->version == "7");
  CHECK(head->id == "b");
  // Another wire type than the schema's is an unknown field.
  REQUIRE(decode_oip(codec, varint(3, 5) + message + varint(7, 1) + varint(5, 2)).ok());
}

}  // namespace
}  // namespace servolley::codec
