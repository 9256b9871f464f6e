// What a warm call allocates, and what a connection keeps.

#include <doctest/doctest.h>

#include <memory>
#include <string>

#include "net/allocations.h"
#include "net/http2_link.h"
#include "net/http2_wire.h"

namespace servolley::net::http2_test {
namespace {

// Answers with the message and allocates nothing itself.
class Echo final : public Http2Handler {
 public:
  Status on_call(std::uint32_t, const GrpcHead&, std::uint64_t*) override { return {}; }
  void on_message(std::uint32_t stream, GrpcMessage&& message) override {
    answer_.add(std::move(message.owner), message.bytes.data(), message.bytes.size());
    connection->send_message(stream, answer_, MessageCoding::kIdentity, {});
  }
  void on_half_close(std::uint32_t stream) override {
    connection->finish(stream, Status(), {});
    ++calls;
  }
  void on_cancel(std::uint32_t) override {}
  Http2Connection* connection = nullptr;
  std::size_t calls = 0;

 private:
  Payload answer_;
};

void feed(Http2Connection& connection, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto space = connection.receive_space();
    const std::size_t part = std::min(space.size(), bytes.size());
    std::memcpy(space.data(), bytes.data(), part);
    connection.received(part, {});
    bytes.remove_prefix(part);
  }
}

void drink(Http2Connection& connection) {
  iovec pieces[8];
  while (const std::size_t count = connection.output(pieces, 8)) {
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < count; ++i) bytes += pieces[i].iov_len;
    connection.sent(bytes, {});
  }
}

// `streams` calls in one read, from stream `first` on.
std::string calls(std::uint32_t first, std::size_t streams, std::size_t message_bytes) {
  std::string bytes;
  const std::string message = with_prefix(std::string(message_bytes, 'm'));
  for (std::size_t i = 0; i < streams; ++i) {
    const std::uint32_t id = first + 2 * static_cast<std::uint32_t>(i);
    bytes += headers(id, grpc_head() + literal("grpc-timeout", "1S") + literal("x-id", "7")) +
             data(id, message, true);
  }
  return bytes + window_update(0, static_cast<std::uint32_t>(streams * message.size()));
}

TEST_CASE("http2 memory: a warm call never calls the allocator") {
  const std::size_t streams_of[] = {1, 8, 60};
  for (const std::size_t streams : streams_of) {
    for (const std::size_t message_bytes : {0, 1, 150, 2000, 5000, 15'000}) {
      CAPTURE(streams);
      CAPTURE(message_bytes);
      Pool pool(cpu_device(), {});
      ReadScratch scratch;
      Echo echo;
      Http2Connection connection(echo, pool, scratch, {}, {});
      echo.connection = &connection;
      feed(connection, greeting() + frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0) +
                           settings({{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0x7fffffff}}) +
                           window_update(0, 0x70000000));
      std::uint32_t next = 1;
      std::size_t before = 0;
      for (int round = 0; round < 60; ++round) {
        const std::string bytes = calls(next, streams, message_bytes);
        next += 2 * static_cast<std::uint32_t>(streams);
        if (round == 30) before = allocations;
        const std::size_t own = allocations;  // what the test itself allocated
        feed(connection, bytes);
        drink(connection);
        if (round >= 30) CHECK(allocations == own);
      }
      CHECK(allocations > before);  // the counter works
      CHECK(echo.calls == 60 * streams);
      CHECK_FALSE(connection.wants_close());
    }
  }
}

TEST_CASE("http2 memory: what a connection keeps") {
  Pool pool(cpu_device(), {});
  ReadScratch scratch;
  Echo echo;
  const std::size_t before = live_bytes;
  Http2Connection connection(echo, pool, scratch, {}, {});
  echo.connection = &connection;
  feed(connection, greeting() + frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0) +
                       settings({{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0x7fffffff}}) +
                       window_update(0, 0x70000000));
  drink(connection);
  const std::size_t fresh = live_bytes - before;
  MESSAGE("a fresh connection: " << fresh << " bytes");
  CHECK(fresh < 48 << 10);
  feed(connection, calls(1, 1, 150));
  drink(connection);
  MESSAGE("after one call: " << live_bytes - before << " bytes");
  feed(connection, calls(3, 1000, 50));
  drink(connection);
  feed(connection, calls(2003, 1, 300'000));
  drink(connection);
  const PoolStats stats = pool.stats();
  CHECK(stats.in_use_bytes == 0);
  pool.trim();
  const std::size_t kept = live_bytes - before;
  MESSAGE("after 1000 at once: " << kept << " bytes");
  CHECK(kept < 400 << 10);
  CHECK(echo.calls == 1002);
}

}  // namespace
}  // namespace servolley::net::http2_test
