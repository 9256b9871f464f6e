// However the bytes are cut, the handler sees the same calls and the client the same answers.

#include <doctest/doctest.h>

#include <random>

#include "net/http2_streams.h"

namespace servolley::net::http2_test {
namespace {

struct Outcome {
  std::map<std::uint32_t, SeenStream> calls;
  std::map<std::uint32_t, WireAnswer> answers;
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome fed(std::string_view bytes, const std::function<std::size_t()>& step) {
  Host host;
  host.echo();
  while (!bytes.empty()) {
    const std::size_t part = std::min(step(), bytes.size());
    host.feed(bytes.substr(0, part));
    bytes.remove_prefix(part);
  }
  Outcome outcome{host.server.calls, answers_of(host.drink())};
  // What a call was answered before its cancel was read depends on the cuts.
  for (const std::uint32_t cancelled : host.server.cancels) outcome.answers.erase(cancelled);
  CHECK(host.server.aligned);
  CHECK(host.server.owned);
  return outcome;
}

TEST_CASE("http2 split: byte by byte, and at random") {
  std::mt19937 random(7);
  for (const std::string& stream : recorded_streams()) {
    const Outcome whole = fed(stream, [&] { return stream.size(); });
    CHECK(!whole.calls.empty());
    CHECK(!whole.answers.empty());
    const auto same = [&](const Outcome& other) { return other == whole; };
    CHECK(same(fed(stream, [] { return std::size_t{1}; })));
    for (int i = 0; i < 100; ++i) {
      const std::size_t most = 1 + random() % 200;
      CHECK(same(fed(stream, [&] { return 1 + random() % most; })));
    }
  }
}

TEST_CASE("http2 split: at every position") {
  for (const std::string& stream : recorded_streams()) {
    const Outcome whole = fed(stream, [&] { return stream.size(); });
    for (std::size_t at = 1; at < stream.size(); ++at) {
      bool first = true;
      const Outcome cut =
          fed(stream, [&] { return std::exchange(first, false) ? at : stream.size(); });
      const bool same = cut == whole;
      REQUIRE(same);
    }
  }
}

TEST_CASE("http2 split: large messages in large frames, read in steps") {
  std::mt19937 random(11);
  std::string message(1'500'000, '\0');
  for (char& c : message) c = static_cast<char>(random());
  const std::string bytes = with_prefix(message) + with_prefix("next") + with_prefix(message);
  std::string stream =
      greeting() + frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0) + headers(1, grpc_head());
  for (std::size_t at = 0; at < bytes.size(); at += 700'000) {
    stream += data(1, std::string_view(bytes).substr(at, 700'000), at + 700'000 >= bytes.size());
  }
  for (int i = 0; i < 10; ++i) {
    Host host;
    host.echo();
    for (std::size_t at = 0; at < stream.size();) {
      const auto space = host.connection->receive_space();
      const std::size_t most = 1 + random() % 300'000;
      const std::size_t part = std::min({space.size(), stream.size() - at, most});
      host.direct_bytes += space.data() == host.scratch.data.get() ? 0 : part;
      std::memcpy(space.data(), stream.data() + at, part);
      host.connection->received(part, host.now);
      at += part;
    }
    const bool same =
        host.server.calls.at(1).messages == std::vector<std::string>{message, "next", message};
    CHECK(same);
    CHECK(host.server.calls.at(1).half_closed);
    CHECK(host.direct_bytes > 2'000'000);
    CHECK(host.server.aligned);
  }
}

}  // namespace
}  // namespace servolley::net::http2_test
