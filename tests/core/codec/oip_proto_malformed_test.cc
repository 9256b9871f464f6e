#include "codec/proto_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

Status one_input(Codec& codec, const std::string& dtype, const std::vector<std::int64_t>& shape,
                 const std::string& data_fields) {
  return decode_oip(codec, oip_input("x", dtype, shape, contents(data_fields)));
}

TEST_CASE("strings must be UTF-8") {
  Codec codec(signature(DType::kFp32, {-1}));
  const std::string good = oip_input("x", "FP32", {1}) + raw_entry(raw<float>({1}));
  const std::string bad = "caf\xe9";
  REQUIRE(decode_oip(codec, good + bytes(3, "caf\xc3\xa9")).ok());
  for (const std::string& field :
       {bytes(1, bad), bytes(2, bad), bytes(3, bad), bytes(3, "long enough for a word\xff"),
        bytes(3, "\xed\xa0\x80"), parameter(bad, bool_param(true)),
        parameter("p", string_param(bad)), oip_input(bad, "FP32", {1}), oip_input("x", bad, {1}),
        bytes(6, bytes(1, bad))}) {
    const Status status = decode_oip(codec, good + field);
    CHECK(status.code() == Code::kInvalidArgument);
    CHECK(contains(status.message(), "is not valid UTF-8"));
  }
  CHECK(read_oip_head(bytes_of(bytes(1, bad))).error().code() == Code::kInvalidArgument);
}

TEST_CASE("messages that are not protobuf") {
  Codec codec(signature(DType::kFp32, {-1}));
  const std::string good = oip_input("x", "FP32", {1}) + raw_entry(raw<float>({1}));
  std::string groups;  // of number 100, begun but never ended
  for (int i = 0; i < 1'000'000; ++i) groups += "\xa3\x06";
  for (const std::string& bad :
       {std::string("\x80"), std::string("\x0a"), std::string("\x0a\x05hell"),
        std::string("\x08") + std::string(11, '\xff'), std::string("\x00\x01", 2),
        std::string("\x0e"), std::string("\x09\x01\x02"), std::string("\x3a\xff\xff\xff\xff\x0f"),
        groups}) {
    CHECK(decode_oip(codec, good + bad).code() == Code::kInvalidArgument);
    CHECK(read_oip_head(bytes_of(good + bad)).error().code() == Code::kInvalidArgument);
  }
  // A varint that ends with its field, inside packed values.
  Codec ints(signature(DType::kInt64, {-1}));
  CHECK(one_input(ints, "INT64", {1}, bytes(3, "\x01\x80")).code() == Code::kInvalidArgument);
  CHECK(one_input(ints, "INT64", {1}, bytes(3, std::string(12, '\xff') + '\1')).code() ==
        Code::kInvalidArgument);
  // 10 MB of unknown fields are only skipped.
  std::string unknown = good;
  while (unknown.size() < 10'000'000) unknown += varint(77, 1u << 30) + bytes(78, "abcdefgh");
  CHECK(decode_oip(codec, unknown).ok());
}

}  // namespace
}  // namespace servolley::codec
