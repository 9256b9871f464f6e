#include "memory/buffer_writer.h"

#include <doctest/doctest.h>

#include <limits>
#include <string>

#include "memory/payload.h"

using namespace servolley;

namespace {
std::string text_of(const BufferWriter& writer) {
  return {reinterpret_cast<const char*>(writer.data()), writer.size()};
}
}  // namespace

TEST_CASE("what is appended is there, in order, however often the buffer grows") {
  Pool pool(cpu_device(), {});
  BufferWriter writer(pool);
  std::string wanted;
  CHECK(writer.size() == 0);
  CHECK(writer.append("").ok());
  CHECK(writer.append(nullptr, 0).ok());
  for (int i = 0; i < 5000; ++i) {
    const std::string piece(static_cast<std::size_t>(i % 23), static_cast<char>('a' + i % 26));
    wanted += piece;
    REQUIRE(writer.append(piece).ok());
  }
  CHECK((text_of(writer) == wanted));
  REQUIRE(writer.reserve(1000).ok());
  CHECK(writer.room() >= 1000);
  writer.tail()[0] = std::byte{'!'};
  writer.advance(1);
  CHECK((text_of(writer) == wanted + '!'));
  const std::byte* const data = writer.data();
  writer.clear();
  CHECK(writer.append("again").ok());
  CHECK(writer.data() == data);
  const Buffer taken = writer.take();
  CHECK(taken.data() == data);
  CHECK(writer.size() == 0);
  CHECK(writer.append("fresh").ok());
  CHECK(writer.data() != data);
}

TEST_CASE("the limit is exact, checked before memory is taken, and keeps what was written") {
  Pool pool(cpu_device(), {});
  BufferWriter writer(pool, 1000);
  REQUIRE(writer.append(std::string(1000, 'x')).ok());
  CHECK(writer.append("y").code() == Code::kTooLarge);
  CHECK((text_of(writer) == std::string(1000, 'x')));
  CHECK(pool.stats().high_water_bytes <= 4096);

  BufferWriter none(pool, 0);
  CHECK(none.append("").ok());
  CHECK(none.append("x").code() == Code::kTooLarge);
  BufferWriter huge(pool);
  REQUIRE(huge.append("x").ok());
  CHECK_FALSE(huge.reserve(std::numeric_limits<std::size_t>::max()).ok());
  CHECK_FALSE(huge.reserve(std::numeric_limits<std::size_t>::max() - 1).ok());
  CHECK((text_of(huge) == "x"));
}

TEST_CASE("every split of the same bytes meets the limit at the same byte") {
  Pool pool(cpu_device(), {});
  for (const std::size_t limit : {1UL, 63UL, 64UL, 65UL, 255UL, 256UL, 257UL, 320UL, 1000UL}) {
    for (const std::size_t piece : {1UL, 7UL, 64UL, 100UL}) {
      BufferWriter writer(pool, limit);
      std::size_t written = 0;
      while (writer.append(std::string(piece, 'x')).ok()) {
        written += piece;
        REQUIRE(written <= limit);
      }
      CAPTURE(limit);
      CAPTURE(piece);
      CHECK(written == limit / piece * piece);
      CHECK(writer.size() == written);
    }
  }
}

TEST_CASE("a pool without room is its own error") {
  Pool pool(cpu_device(), {.ceiling_bytes = 1024});
  BufferWriter writer(pool);
  REQUIRE(writer.append(std::string(300, 'x')).ok());
  CHECK(writer.append(std::string(2000, 'y')).code() == Code::kTooLarge);
  CHECK(writer.size() == 300);
}

TEST_CASE("a payload keeps order, sizes and leases") {
  Pool pool(cpu_device(), {});
  Payload payload;
  payload.add_static("head");
  payload.add_static("");
  {
    BufferWriter writer(pool);
    REQUIRE(writer.append("body").ok());
    const std::size_t size = writer.size();
    Buffer body = writer.take();
    const std::byte* const data = body.data();
    payload.add(std::move(body), data, size);
  }
  CHECK(payload.size() == 8);
  CHECK(payload.segments().size() == 2);
  CHECK(pool.stats().in_use_bytes > 0);
  payload.clear();
  CHECK(payload.size() == 0);
  CHECK(pool.stats().in_use_bytes == 0);
}
