#include "codec/compression.h"

#include <zlib.h>

#include <random>

#include "codec/codec_fixture.h"

namespace servolley::codec {
namespace {

using namespace testing;

constexpr int kGzip = 15 + 16;
constexpr int kZlib = 15;
constexpr int kRaw = -15;

std::string compress(std::string_view text, int window_bits, int level = 9) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, level, Z_DEFLATED, window_bits, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<unsigned>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<unsigned>(out.size());
  REQUIRE(::deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

struct Inflated {
  Code code;
  std::string text;
};

Inflated inflated(Coding coding, std::string_view body, std::size_t limit = kLimit) {
  Pool pool(cpu_device(), {});
  auto result = inflate(coding, bytes_of(body), limit, pool);
  if (!result) return {result.error().code(), result.error().message()};
  return {Code::kOk, {reinterpret_cast<const char*>(result->owner.data()), result->size}};
}

std::string sample(std::size_t size) {
  std::mt19937 random(static_cast<unsigned>(size));
  std::string out;
  while (out.size() < size) out += std::to_string(random() % 1000) + ",";
  out.resize(size);
  return out;
}

TEST_CASE("gzip, zlib and raw deflate of every size") {
  for (const std::size_t size : {0, 1, 100, 4095, 4096, 4097, 100'000, 3'000'000}) {
    const std::string text = sample(size);
    CHECK(inflated(Coding::kGzip, compress(text, kGzip)).text == text);
    CHECK(inflated(Coding::kDeflate, compress(text, kZlib)).text == text);
    CHECK(inflated(Coding::kDeflate, compress(text, kRaw)).text == text);
    // Clients mix the two up.
    CHECK(inflated(Coding::kDeflate, compress(text, kGzip)).text == text);
    CHECK(inflated(Coding::kGzip, compress(text, kZlib)).text == text);
    CHECK(inflated(Coding::kGzip, compress(text, kGzip), size).code == Code::kOk);
    if (size)
      CHECK(inflated(Coding::kGzip, compress(text, kGzip), size - 1).code == Code::kTooLarge);
  }
}

TEST_CASE("several gzip members are one body") {
  const std::string members =
      compress("one ", kGzip) + compress("", kGzip) + compress("two", kGzip);
  CHECK(inflated(Coding::kGzip, members).text == "one two");
  CHECK(inflated(Coding::kGzip, members, 7).text == "one two");
  CHECK(inflated(Coding::kGzip, members, 6).code == Code::kTooLarge);
}

TEST_CASE("what cannot be decoded") {
  const std::string text = sample(5000);
  for (const int window : {kGzip, kZlib, kRaw}) {
    const Coding coding = window == kGzip ? Coding::kGzip : Coding::kDeflate;
    const std::string good = compress(text, window);
    for (std::size_t size = 0; size < good.size(); size += 1 + size / 7) {
      CHECK(inflated(coding, good.substr(0, size)).code == Code::kInvalidArgument);
    }
    CHECK(inflated(coding, good.substr(0, good.size() - 1)).code == Code::kInvalidArgument);
    CHECK(inflated(coding, good + "garbage").code == Code::kInvalidArgument);
  }
  CHECK(inflated(Coding::kGzip, text).code == Code::kInvalidArgument);
  CHECK(inflated(Coding::kGzip, compress(text, kRaw)).code == Code::kInvalidArgument);
  std::string wrong_sum = compress(text, kGzip);
  wrong_sum[wrong_sum.size() - 6] = static_cast<char>(wrong_sum[wrong_sum.size() - 6] ^ 1);
  CHECK(inflated(Coding::kGzip, wrong_sum).code == Code::kInvalidArgument);
  CHECK(inflated(Coding::kIdentity, text).code == Code::kInternal);
}

TEST_CASE("a bomb is stopped at the limit") {
  const std::string zeros(std::size_t{64} << 20, '\0');
  const std::string bomb = compress(zeros, kGzip);
  CHECK(bomb.size() < 100'000);
  for (const int members : {1, 50}) {
    std::string body;
    for (int i = 0; i < members; ++i) body += bomb;
    Pool pool(cpu_device(), {});
    const auto result = inflate(Coding::kGzip, bytes_of(body), 1 << 20, pool);
    REQUIRE(!result.has_value());
    CHECK(result.error().code() == Code::kTooLarge);
    CHECK(pool.stats().high_water_bytes <= std::size_t{3} << 20);
  }
}

TEST_CASE("damaged bodies never harm") {
  std::mt19937 random(11);
  const std::string text = sample(20'000);
  for (const int window : {kGzip, kZlib, kRaw}) {
    const std::string good = compress(text, window, 1);
    for (int i = 0; i < 300; ++i) {
      std::string bad = good;
      for (unsigned k = 0; k < 1 + random() % 4; ++k) {
        bad[random() % bad.size()] = static_cast<char>(random());
      }
      const Inflated result =
          inflated(window == kGzip ? Coding::kGzip : Coding::kDeflate, bad, 1 << 20);
      CHECK((result.code == Code::kOk || result.code == Code::kInvalidArgument ||
             result.code == Code::kTooLarge));
    }
  }
}

TEST_CASE("a deflated payload inflates to its segments") {
  const std::string parts[] = {sample(10), "", sample(300'000), sample(1)};
  for (const Coding coding : {Coding::kGzip, Coding::kDeflate}) {
    Pool pool(cpu_device(), {});
    Payload payload;
    for (const std::string& part : parts) payload.add_static(part);
    const auto result = deflate(coding, payload, pool);
    REQUIRE(result.has_value());
    CHECK(result->size < 200'000);
    const std::string_view body(reinterpret_cast<const char*>(result->owner.data()), result->size);
    CHECK((body[0] == '\x1f') == (coding == Coding::kGzip));
    CHECK(inflated(coding, body).text == text_of(payload));
  }
  Pool pool(cpu_device(), {});
  const auto empty = deflate(Coding::kGzip, Payload(), pool);
  REQUIRE(empty.has_value());
  CHECK(inflated(Coding::kGzip, {reinterpret_cast<const char*>(empty->owner.data()), empty->size})
            .text.empty());
}

TEST_CASE("Content-Encoding") {
  CHECK(*parse_content_encoding("") == Coding::kIdentity);
  CHECK(*parse_content_encoding("identity") == Coding::kIdentity);
  CHECK(*parse_content_encoding("gzip") == Coding::kGzip);
  CHECK(*parse_content_encoding(" GZIP\t") == Coding::kGzip);
  CHECK(*parse_content_encoding("x-gzip") == Coding::kGzip);
  CHECK(*parse_content_encoding("Deflate") == Coding::kDeflate);
  for (const char* bad :
       {"br", "zstd", "gzip, gzip", "gzip,deflate", "gzip;q=1", "gzi", "gzipp", "*"}) {
    CAPTURE(bad);
    const auto result = parse_content_encoding(bad);
    REQUIRE(!result.has_value());
    CHECK(result.error().code() == Code::kUnsupportedMedia);
  }
}

TEST_CASE("Accept-Encoding") {
  const auto chosen = [](std::string_view value) {
    return std::string("igd")[static_cast<std::size_t>(choose_response_coding(value))];
  };
  CHECK(chosen("") == 'i');
  CHECK(chosen("gzip") == 'g');
  CHECK(chosen("deflate") == 'd');
  CHECK(chosen("x-gzip") == 'g');
  CHECK(chosen(" GZip ; Q=0.5 ") == 'g');
  CHECK(chosen("gzip, deflate") == 'i');
  CHECK(chosen("gzip, deflate, br") == 'i');
  CHECK(chosen("identity") == 'i');
  CHECK(chosen("br") == 'i');
  CHECK(chosen("*") == 'i');
  CHECK(chosen("gzip;q=0") == 'i');
  CHECK(chosen("gzip;q=0.000") == 'i');
  CHECK(chosen("gzip;q=0.001") == 'g');
  CHECK(chosen("gzip;q=0, deflate") == 'd');
  CHECK(chosen("gzip, gzip") == 'g');
  CHECK(chosen("identity;q=0, gzip") == 'g');
  CHECK(chosen("gzip;q=0.5, identity") == 'i');
  CHECK(chosen("identity;q=0.5, gzip") == 'g');
  CHECK(chosen("identity, gzip") == 'i');
  CHECK(chosen("gzip, identity") == 'g');
  CHECK(chosen("gzip;q=x") == 'i');
  CHECK(chosen("gzip;q=") == 'i');
  CHECK(chosen("gzip;q=1.0000") == 'i');
  CHECK(chosen(",,gzip,,") == 'g');
  CHECK(chosen("gzip;level=1") == 'i');
}

}  // namespace
}  // namespace servolley::codec
