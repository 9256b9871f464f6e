#include "codec/proto_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

Status one_input(Codec& codec, const std::string& tensor) {
  return decode_tfs(codec, model_spec() + tf_input("x", tensor));
}

// Decodes one tensor of the datatype and compares its bytes.
void check(DType dtype, const std::vector<std::int64_t>& dims, const std::string& fields,
           const std::string& expected) {
  CAPTURE(tf_name(dtype));
  Codec codec(signature(dtype, {-1}));
  const Status status = one_input(codec, tf_tensor(tf_number(dtype), dims, fields));
  CAPTURE(status.message());
  REQUIRE(status.ok());
  CHECK(data_of(codec.request.inputs[0].view) == expected);
  CHECK(codec.request.inputs[0].view.shape.rank() == dims.size());
  CHECK(codec.request.inputs[0].view.dtype == dtype);
}

Status refuse(DType dtype, const std::vector<std::int64_t>& dims, const std::string& fields) {
  Codec codec(signature(dtype, {-1}));
  return one_input(codec, tf_tensor(tf_number(dtype), dims, fields));
}

template <class T>
void check_integers(DType dtype, std::uint32_t field, const std::vector<T>& values) {
  const auto count = static_cast<std::int64_t>(values.size());
  check(dtype, {count}, packed_varints(field, values), raw(values));
  check(dtype, {count}, single_varints(field, values), raw(values));
  // Fewer values: the last one repeats. None: zeros.
  std::vector<T> longer = values;
  for (int i = 0; i < 9; ++i) longer.push_back(values.back());
  check(dtype, {3, (count + 9) / 3}, packed_varints(field, values), raw(longer));
  check(dtype, {2, 2}, "", raw(std::vector<T>(4, 0)));
  check(dtype, {0}, "", "");
  // More values than elements.
  const Status more = refuse(dtype, {count - 1}, packed_varints(field, values));
  CHECK(more.code() == Code::kInvalidArgument);
  CHECK(refuse(dtype, {0}, packed_varints(field, values)).code() == Code::kInvalidArgument);
}

TEST_CASE("typed fields of every integer type, whole and short") {
  check_integers<std::uint8_t>(DType::kBool, 11, {1, 0, 1});
  check_integers<std::int8_t>(DType::kInt8, 7, {-128, 127, -1});
  check_integers<std::int16_t>(DType::kInt16, 7, {-32768, 32767, 300});
  check_integers<std::int32_t>(DType::kInt32, 7,
                               {std::numeric_limits<std::int32_t>::min(), 2147483647, -7});
  check_integers<std::int64_t>(
      DType::kInt64, 10,
      {std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max(), -7});
  check_integers<std::uint8_t>(DType::kUint8, 7, {0, 255, 128});
  check_integers<std::uint16_t>(DType::kUint16, 7, {0, 65535, 300});
  check_integers<std::uint32_t>(DType::kUint32, 16, {0, 4294967295, 300});
  check_integers<std::uint64_t>(DType::kUint64, 17, {0, 18446744073709551615u, 300});
  check_integers<std::uint16_t>(DType::kFp16, 13, {0x3C00, 0xFC00, 0x7E01});
  check_integers<std::uint16_t>(DType::kBf16, 13, {0x3F80, 0xFF80, 0x7FC1});
}

TEST_CASE("typed floats, whole and short") {
  const std::vector<float> floats{1, -2.5, 0.1f};
  const std::string packed32 =
      proto([&](pbf_writer& w) { w.add_packed_float(5, floats.begin(), floats.end()); });
  std::string single32;
  for (const float v : floats) single32 += proto([&](pbf_writer& w) { w.add_float(5, v); });
  for (const std::string& fields : {packed32, single32}) {
    check(DType::kFp32, {3}, fields, raw(floats));
    check(DType::kFp32, {5}, fields, raw<float>({1, -2.5, 0.1f, 0.1f, 0.1f}));
    CHECK(refuse(DType::kFp32, {2}, fields).code() == Code::kInvalidArgument);
  }
  const std::vector<double> doubles{1e300, -0.1};
  const std::string packed64 =
      proto([&](pbf_writer& w) { w.add_packed_double(6, doubles.begin(), doubles.end()); });
  check(DType::kFp64, {2}, packed64, raw(doubles));
  check(DType::kFp64, {2, 2}, packed64, raw<double>({1e300, -0.1, -0.1, -0.1}));
  check(DType::kFp64, {2}, "", raw<double>({0, 0}));
}

TEST_CASE("typed strings, whole and short") {
  const std::string two = bytes(8, "ab") + bytes(8, std::string("\0\xff!", 3));
  const std::string last("\0\xff!", 3);
  check(DType::kBytes, {2}, two, packed({"ab", last}));
  check(DType::kBytes, {5}, two, packed({"ab", last, last, last, last}));
  check(DType::kBytes, {3}, "", packed({"", "", ""}));
  check(DType::kBytes, {3}, bytes(8, ""), packed({"", "", ""}));
  check(DType::kBytes, {}, bytes(8, "scalar"), packed({"scalar"}));
  CHECK(refuse(DType::kBytes, {1}, two).code() == Code::kInvalidArgument);
}

TEST_CASE("tensor_content of every datatype") {
  for (std::size_t i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    const std::size_t size = element_size(dtype);
    if (size == 0) continue;
    std::string data;
    for (std::size_t k = 0; k < 6 * size; ++k) data += static_cast<char>(k * 5 + 1);
    check(dtype, {2, 3}, bytes(4, data), data);
    for (const std::string& bad : {data + '\0', data.substr(1)}) {
      const Status status = refuse(dtype, {2, 3}, bytes(4, bad));
      CHECK(status.code() == Code::kInvalidArgument);
      CHECK(contains(status.message(), "tensor_content has"));
    }
    CHECK(refuse(dtype, {0}, bytes(4, data)).code() == Code::kInvalidArgument);
  }
  CHECK(refuse(DType::kInt32, {1}, bytes(4, "abcd") + varint(7, 1)).code() ==
        Code::kInvalidArgument);
}

TEST_CASE("strings in tensor_content: all lengths, then all bytes") {
  const std::string wide(300, 'w');
  check(DType::kBytes, {3}, bytes(4, std::string("\2\0\xac\2ab", 6) + wide),
        packed({"ab", "", wide}));
  check(DType::kBytes, {2}, bytes(4, std::string("\0\0", 2)), packed({"", ""}));
  for (const std::string& bad :
       {std::string("\2\1ab"), std::string("\2\1abcd"), std::string("\2"), std::string("\2\x80"),
        std::string("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01\1a"), std::string("\3abc")}) {
    CHECK(refuse(DType::kBytes, {2}, bytes(4, bad)).code() == Code::kInvalidArgument);
  }
  // A count that the bytes cannot hold.
  CHECK(refuse(DType::kBytes, {1'000'000'000}, bytes(4, "\1a")).code() == Code::kInvalidArgument);
}

TEST_CASE("dense content is a view, wherever it lies") {
  Codec codec(signature(DType::kFp64, {-1}));
  const std::string data = raw<double>({1, 2, 3});
  const std::string typed(proto([](pbf_writer& w) {
    const double values[] = {1, 2, 3};
    w.add_packed_double(6, values, values + 3);
  }));
  for (const std::string& fields : {bytes(4, data), typed}) {
    const std::string message = model_spec() + tf_input("x", tf_tensor(2, {3}, fields));
    for (std::size_t offset = 0; offset < 8; ++offset) {
      alignas(64) std::array<std::byte, 128> memory{};
      REQUIRE(message.size() + offset <= memory.size());
      std::memcpy(memory.data() + offset, message.data(), message.size());
      REQUIRE(decode_tfs_proto({memory.data() + offset, message.size()}, codec.decode_context(),
                               codec.request)
                  .ok());
      const InputTensor& input = codec.request.inputs[0];
      CHECK(data_of(input.view) == data);
      CHECK_FALSE(input.owner);
      CHECK(input.view.data == memory.data() + offset + message.size() - data.size());
    }
  }
}

TEST_CASE("values in a field that does not carry the datatype") {
  const Status clients_bug = refuse(DType::kInt64, {2}, packed_varints<int>(11, {1, 1}));
  CHECK(clients_bug.code() == Code::kInvalidArgument);
  CHECK(contains(clients_bug.message(),
                 "DT_INT64 values belong into int64_val, found some in bool_val"));
  CHECK(refuse(DType::kInt64, {2}, packed_varints<int>(10, {1, 1}) + varint(7, 1)).code() ==
        Code::kInvalidArgument);
  check(DType::kInt64, {2}, packed_varints<int>(10, {1, 1}) + packed_varints<int>(7, {}),
        raw<std::int64_t>({1, 1}));
}

TEST_CASE("typed values must fit their datatype") {
  const auto with = [](DType dtype, std::uint32_t field, std::int64_t value) {
    return refuse(dtype, {1}, packed_varints<std::int64_t>(field, {value})).ok();
  };
  CHECK_FALSE(with(DType::kInt8, 7, 128));
  CHECK_FALSE(with(DType::kInt8, 7, -129));
  CHECK_FALSE(with(DType::kInt16, 7, 40000));
  CHECK_FALSE(with(DType::kUint8, 7, -1));
  CHECK_FALSE(with(DType::kUint8, 7, 256));
  CHECK_FALSE(with(DType::kUint16, 7, -1));
  CHECK_FALSE(with(DType::kUint16, 7, 65536));
  CHECK_FALSE(with(DType::kFp16, 13, 65536));
  CHECK_FALSE(with(DType::kBf16, 13, -1));
  CHECK(with(DType::kFp16, 13, 65535));
}

TEST_CASE("datatypes must be the signature's") {
  Codec codec(signature(DType::kFp32, {-1}));
  for (const int number : {0, 2, 3, 8, 18, 101, 11, 1000, -1}) {
    const Status status = one_input(codec, tf_tensor(number, {1}, ""));
    CHECK(status.code() == Code::kInvalidArgument);
    CHECK(contains(status.message(), "expected DT_FLOAT"));
  }
  CHECK(one_input(codec, "").code() == Code::kInvalidArgument);
}

TEST_CASE("shapes are checked before anything is allocated for them") {
  using Dims = std::vector<std::int64_t>;
  const std::int64_t huge = (std::int64_t{1} << 60) + 2;
  Codec codec(signature(DType::kFp32, {-1}));
  const std::string one = proto([](pbf_writer& w) { w.add_float(5, 1); });
  for (const Dims& dims : {Dims{16, huge}, Dims{4, huge}, Dims{2, -5}, Dims{-1},
                           Dims{std::numeric_limits<std::int64_t>::min()}, Dims(17, 1),
                           Dims(100'000, 1), Dims{0, -1}}) {
    CHECK(one_input(codec, tf_tensor(1, dims, one)).code() == Code::kInvalidArgument);
  }
  // A value that repeats is bounded by the limit, and so are zeros and empty strings.
  for (const std::string& fields : {one, std::string()}) {
    CHECK(one_input(codec, tf_tensor(1, {1'000'000'000}, fields)).code() == Code::kTooLarge);
    CHECK(one_input(codec, tf_tensor(1, {std::int64_t{1} << 60}, fields)).code() ==
          Code::kTooLarge);
  }
  CHECK(codec.pool.stats().high_water_bytes == 0);
  Codec strings(signature(DType::kBytes, {-1}));
  for (const std::string& fields :
       {std::string(), bytes(8, "x"), bytes(8, std::string(1000, 'x'))}) {
    CHECK(one_input(strings, tf_tensor(7, {1'000'000'000}, fields)).code() == Code::kTooLarge);
    CHECK(one_input(strings, tf_tensor(7, {std::numeric_limits<std::int64_t>::max()}, fields))
              .code() == Code::kTooLarge);
  }
  CHECK(strings.pool.stats().high_water_bytes == 0);

  // No shape: a scalar. A dimension without a size: 0. The rank of the signature does not matter.
  REQUIRE(one_input(codec, varint(1, 1) + one).ok());
  CHECK(codec.request.inputs[0].view.shape.rank() == 0);
  CHECK(data_of(codec.request.inputs[0].view) == raw<float>({1}));
  REQUIRE(one_input(codec, varint(1, 1) + bytes(2, bytes(2, "") + bytes(2, varint(1, 3)))).ok());
  CHECK(codec.request.inputs[0].view.shape == Shape{0, 3});
  CHECK(one_input(codec, varint(1, 1) + bytes(2, varint(3, 1))).code() == Code::kInvalidArgument);
  CHECK(one_input(codec, varint(1, 1) + bytes(2, varint(3, 0)) + one).ok());
}

TEST_CASE("the limit counts all tensors of a request together") {
  Signature s = signature(DType::kInt32, {-1});
  s.inputs.push_back(spec("b", DType::kInt32, {-1}));
  Codec codec(s, 800);
  const auto with = [&](std::int64_t a, std::int64_t b) {
    return decode_tfs(codec, model_spec() + tf_input("x", tf_tensor(3, {a}, varint(7, 1))) +
                                 tf_input("b", tf_tensor(3, {b}, varint(7, 1))));
  };
  CHECK(with(100, 100).ok());
  CHECK(with(100, 101).code() == Code::kTooLarge);
  Codec content(signature(DType::kBytes, {-1}), 800);
  CHECK(one_input(content, tf_tensor(7, {200}, bytes(4, std::string(200, '\0')))).ok());
  CHECK(one_input(content, tf_tensor(7, {201}, bytes(4, std::string(201, '\0')))).code() ==
        Code::kTooLarge);
}

Signature two_inputs() {
  Signature s = signature(DType::kInt32, {-1});
  s.inputs.push_back(spec("b", DType::kInt32, {-1}));
  s.outputs.push_back(spec("z", DType::kBytes, {-1}));
  return s;
}

TEST_CASE("the inputs are a map") {
  Codec codec(two_inputs());
  const auto tensor = [](int value) {
    return tf_tensor(3, {1}, varint(7, static_cast<std::uint64_t>(value)));
  };
  const std::string spec_field = model_spec();
  REQUIRE(decode_tfs(codec, tf_input("b", tensor(2)) + spec_field + tf_input("x", tensor(1))).ok());
  CHECK(data_of(codec.request.inputs[0].view) == raw<int>({1}));
  CHECK(data_of(codec.request.inputs[1].view) == raw<int>({2}));
  CHECK(codec.request.outputs.size() == 2);
  // The last entry of a key counts, even if an earlier one is bad; key and value in any order.
  REQUIRE(decode_tfs(codec, tf_input("x", tf_tensor(1, {-4}, "")) + tf_input("b", tensor(2)) +
                                bytes(2, bytes(2, tensor(5)) + bytes(1, "x")))
              .ok());
  CHECK(data_of(codec.request.inputs[0].view) == raw<int>({5}));

  const auto refused = [&](const std::string& message, std::string_view text) {
    const Status status = decode_tfs(codec, message);
    CHECK(status.code() == Code::kInvalidArgument);
    CAPTURE(status.message());
    CHECK(contains(status.message(), text));
  };
  refused(tf_input("x", tensor(1)), "sent extra: none; missing but required: 'b'");
  refused("", "missing but required: 'x' and 1 more");
  refused(tf_input("x", tensor(1)) + tf_input("b", tensor(1)) + tf_input("c", tensor(1)),
          "sent extra: 'c'; missing but required: none");
  refused(tf_input("x", tensor(1)) + bytes(2, bytes(1, "b")), "expected DT_INT32");
  std::string many = tf_input("x", tensor(1));
  for (int i = 0; i < 100'000; ++i) many += tf_input("n" + std::to_string(i), "");
  refused(many, "sent extra: 'n0' and 99999 more");
}

TEST_CASE("output_filter") {
  Codec codec(two_inputs());
  const std::string inputs =
      model_spec() + tf_input("x", tf_tensor(3, {1}, "")) + tf_input("b", tf_tensor(3, {1}, ""));
  REQUIRE(decode_tfs(codec, inputs + bytes(3, "z")).ok());
  REQUIRE(codec.request.outputs.size() == 1);
  CHECK(codec.request.outputs[0].index == 1);
  REQUIRE(decode_tfs(codec, inputs + bytes(3, "z") + bytes(3, "y")).ok());
  CHECK(codec.request.outputs[1].index == 0);
  CHECK(contains(decode_tfs(codec, inputs + bytes(3, "q")).message(), "alias not found"));
  CHECK(contains(decode_tfs(codec, inputs + bytes(3, "z") + bytes(3, "z")).message(), "duplicate"));
  CHECK(decode_tfs(codec, inputs + bytes(3, "q")).code() == Code::kInvalidArgument);
  CHECK(decode_tfs(codec, inputs + bytes(3, "z") + bytes(3, "z")).code() == Code::kInvalidArgument);
}

TEST_CASE("signature names") {
  Codec codec(signature(DType::kInt32, {-1}));
  const std::string input = tf_input("x", tf_tensor(3, {1}, ""));
  CHECK(decode_tfs(codec, model_spec(bytes(3, "serving_default")) + input).ok());
  CHECK(decode_tfs(codec, model_spec(bytes(3, "")) + input).ok());
  const Status status = decode_tfs(codec, model_spec(bytes(3, "other")) + input);
  CHECK(status.code() == Code::kFailedPrecondition);
  CHECK(contains(status.message(), "Serving signature name: 'other' not found"));
}

TEST_CASE("the head of a request") {
  std::string kept;  // the head is views
  const auto head = [&](const std::string& message) {
    kept = message;
    return read_tfs_head(bytes_of(kept));
  };
  auto got = head(model_spec(bytes(2, varint(1, 12)) + bytes(3, "sig")) + bytes(2, "x"));
  REQUIRE(got.has_value());
  CHECK(got->model == "m");
  CHECK(got->version == 12);
  CHECK(got->label.empty());
  CHECK(got->signature == "sig");
  // The last of version and label counts; an empty Int64Value is 0; a ModelSpec may come in parts.
  got = head(model_spec(bytes(2, varint(1, 12)) + bytes(4, "stable")));
  CHECK_FALSE(got->version.has_value());
  CHECK(got->label == "stable");
  got = head(model_spec(bytes(4, "stable")) + bytes(1, bytes(2, "")));
  CHECK(got->version == 0);
  CHECK(got->label.empty());
  CHECK(got->model == "m");
  got = head(model_spec(bytes(2, varint(1, static_cast<std::uint64_t>(-3)))));
  CHECK(got->version == -3);

  CHECK(contains(head("").error().message(), "Missing ModelSpec"));
  CHECK(contains(head(bytes(1, "")).error().message(), "no name"));
  for (const std::string& bad :
       {bytes(1, "\x80"), std::string("\x0a\x05m"), model_spec() + "\x80",
        bytes(1, bytes(1, "\xff")), model_spec(bytes(3, "\xff")), model_spec(bytes(4, "\xff"))}) {
    CHECK(head(bad).error().code() == Code::kInvalidArgument);
  }
}

TEST_CASE("messages that are not protobuf, strings that are not UTF-8") {
  Codec codec(signature(DType::kInt32, {-1}));
  const std::string good = model_spec() + tf_input("x", tf_tensor(3, {1}, varint(7, 1)));
  REQUIRE(decode_tfs(codec, good).ok());
  std::string groups;
  for (int i = 0; i < 100'000; ++i) groups += "\xa3\x06";
  for (const std::string& bad :
       {std::string("\x80"), std::string("\x12\x7f"), groups, bytes(2, "\x80"),
        tf_input("x", "\x12\x05"), tf_input("x", varint(1, 3) + bytes(2, bytes(2, "\x08\x80"))),
        tf_input("x", tf_tensor(3, {1}, bytes(7, "\x80"))), tf_input("\xff", ""), bytes(3, "\xff"),
        tf_input("x", varint(1, 3) + bytes(2, bytes(2, bytes(2, "\xff"))))}) {
    CHECK(decode_tfs(codec, good + bad).code() == Code::kInvalidArgument);
  }
  std::string unknown = good;
  while (unknown.size() < 10'000'000) unknown += varint(77, 1u << 30) + bytes(78, "abcdefgh");
  CHECK(decode_tfs(codec, unknown).ok());
}

}  // namespace
}  // namespace servolley::codec
