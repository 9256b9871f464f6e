// Many calls: at once, one after the other, of all kinds mixed.

#include <doctest/doctest.h>

#include <random>

#include "net/http2_link.h"

namespace servolley::net::http2_test {
namespace {

TEST_CASE("http2 many: 1000 calls at once, answered in another order") {
  Link link;
  std::vector<std::uint32_t> open;
  link.server.half_close_hook = [&](std::uint32_t stream) { open.push_back(stream); };
  std::vector<std::int32_t> ids;
  link.run();
  for (int i = 0; i < 1000; ++i) ids.push_back(link.unary("/s/m", "question " + std::to_string(i)));
  link.run();
  CHECK(link.connection->open_streams() == 1000);
  REQUIRE(open.size() == 1000);
  std::shuffle(open.begin(), open.end(), std::mt19937(3));
  for (const std::uint32_t stream : open) {
    link.send(stream, "answer to " + link.server.calls[stream].messages.at(0));
    link.finish(stream);
  }
  link.run();
  for (int i = 0; i < 1000; ++i) {
    const ClientCall& call = link.calls.at(ids[static_cast<std::size_t>(i)]);
    CHECK(call.messages().at(0) == "answer to question " + std::to_string(i));
    CHECK(call.status() == "0");
  }
  CHECK(link.connection->open_streams() == 0);
  CHECK(link.pool.stats().in_use_bytes == 0);
}

TEST_CASE("http2 many: 10,000 calls one after the other") {
  Link link;
  link.echo();
  for (int i = 0; i < 10'000; ++i) {
    const std::string message = std::to_string(i);
    const std::int32_t id = link.unary("/s/m", message);
    link.run();
    REQUIRE(link.calls.at(id).messages() == std::vector<std::string>{message});
    REQUIRE(link.calls.at(id).status() == "0");
    link.calls.erase(id);
    link.server.calls.clear();
  }
  CHECK(link.connection->open_streams() == 0);
  CHECK(link.goaways.empty());
}

// Calls of every kind, their parts interleaved, the wire cut anywhere, some cancelled.
TEST_CASE("http2 many: a busy channel") {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    CAPTURE(seed);
    std::mt19937 random(seed);
    const auto below = [&](std::size_t n) { return random() % n; };
    Http2Limits limits;
    limits.unsent_bytes = 1000 + below(200'000);
    limits.stream_window_bytes = static_cast<std::uint32_t>(70'000 + below(200'000));
    limits.connection_window_bytes = static_cast<std::uint32_t>(100'000 + below(400'000));
    Link link(limits, static_cast<std::uint32_t>(1000 + below(100'000)));
    link.echo();
    struct Said {
      std::vector<std::string> messages;
      bool ended = false;
      bool cancelled = false;
    };
    std::map<std::int32_t, Said> said;
    std::string up;
    std::string down;
    const auto step = [&](bool all) {
      up += link.Client::drink();
      const std::size_t part = all ? up.size() : std::min(up.size(), below(30'000));
      if (link.connection->wants_read()) {
        link.Host::feed(std::string_view(up).substr(0, part));
        up.erase(0, part);
      }
      down += link.Host::drink(all ? static_cast<std::size_t>(-1) : below(30'000));
      const std::size_t back = all ? down.size() : std::min(down.size(), below(30'000));
      link.Client::feed(std::string_view(down).substr(0, back));
      down.erase(0, back);
      return part + back > 0 || !up.empty();
    };
    for (int i = 0; i < 400; ++i) {
      if (said.size() < 30 && below(2) == 0) {
        said[link.open(Client::head("/s/m"))];
      } else if (!said.empty()) {
        auto chosen = said.begin();
        std::advance(chosen, static_cast<std::ptrdiff_t>(below(said.size())));
        auto& [id, call] = *chosen;
        if (call.ended) continue;
        switch (below(10)) {
          case 0:
            call.ended = true;
            link.half_close(id);
            break;
          case 1:
            if (below(3) == 0) {
              call.ended = call.cancelled = true;
              link.cancel(id);
            }
            break;
          default:
            call.messages.emplace_back(below(5) ? below(300) : below(60'000),
                                       static_cast<char>('a' + i % 26));
            link.say(id, call.messages.back());
        }
      }
      if (below(3) == 0) step(false);
    }
    for (auto& [id, call] : said) {
      if (!call.ended) link.half_close(id);
    }
    for (int i = 0; i < 5000 && step(true); ++i) {
    }
    link.run();
    for (const auto& [id, call] : said) {
      CAPTURE(id);
      if (call.cancelled) continue;
      CHECK(link.calls[id].messages() == call.messages);
      CHECK(link.calls[id].status() == "0");
      CHECK_FALSE(link.server.calls[static_cast<std::uint32_t>(id)].cancelled);
    }
    CHECK(link.goaways.empty());
    CHECK(link.connection->open_streams() == 0);
    CHECK(link.pool.stats().in_use_bytes == 0);
  }
}

}  // namespace
}  // namespace servolley::net::http2_test
