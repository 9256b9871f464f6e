// Mutated client streams, cut at random, answered in random ways. Seeded: a failure repeats.

#include <doctest/doctest.h>

#include <random>

#include "net/http2_streams.h"

namespace servolley::net::http2_test {
namespace {

class Fuzzer {
 public:
  explicit Fuzzer(unsigned seed) : random_(seed), seeds_(recorded_streams()) {}

  // One connection's life. Returns what is wrong with it; empty: nothing.
  std::string run() {
    Http2Limits limits;
    limits.message_bytes = 200;
    limits.buffered_message_bytes = 100 + below(2000);
    limits.unsent_bytes = below(3) ? 8 << 20 : below(300);
    limits.floods_per_second = static_cast<std::uint32_t>(2 + below(50));
    limits.concurrent_streams = static_cast<std::uint32_t>(1 + below(10));
    Host host(limits, {.ceiling_bytes = below(10) ? std::size_t{1} << 30 : below(4000)});
    script(host);
    const std::string input = mutated();
    for (std::size_t at = 0; at < input.size();) {
      const std::size_t part = std::min(1 + below(below(3) ? 2000 : 20), input.size() - at);
      host.feed(std::string_view(input).substr(at, part));
      at += part;
      if (below(2)) host.drink(below(500));
      if (below(40) == 0) host.connection->drain(host.now);
      if (below(20) == 0) {
        host.now = std::min(host.connection->next_deadline(), host.now + std::chrono::hours(1));
        host.connection->on_deadline(host.now);
      }
      answer_something(host);
    }
    calls += host.server.calls.size();
    if (below(2)) host.connection->received_eof(host.now);
    if (below(2)) {
      Payload taken;
      host.connection->take_output(taken, host.now);
    }
    host.drink();
    closed += host.connection->wants_close();
    for (int i = 0; i < 5 && host.connection->next_deadline() != kNever; ++i) {
      host.now = std::max(host.now, host.connection->next_deadline());
      host.connection->on_deadline(host.now);
      host.drink();
    }
    return verdict(host);
  }

  std::size_t calls = 0;
  std::size_t messages = 0;
  std::size_t closed = 0;

 private:
  struct Call {
    bool finished = false;
    bool refused = false;
  };

  std::size_t below(std::size_t n) { return n ? random_() % n : 0; }

  void script(Host& host) {
    calls_.clear();
    events_after_end_ = 0;
    host.server.call_hook = [this, &host](std::uint32_t stream) {
      calls_[stream].refused = below(8) == 0;
      if (calls_[stream].refused) return Status(Code::kNotFound, "no such method \n");
      maybe_answer(host, stream);
      return Status();
    };
    host.server.message_hook = [this, &host](std::uint32_t stream, GrpcMessage& message) {
      ++messages;
      check_open(host, stream);
      if (below(2)) {
        Payload body;
        body.add(message.owner.share(), message.bytes.data(), message.bytes.size());
        host.connection->send_message(stream, body, message.coding, host.now);
      }
      maybe_answer(host, stream);
    };
    host.server.half_close_hook = [this, &host](std::uint32_t stream) {
      check_open(host, stream);
      maybe_answer(host, stream);
    };
    host.server.cancel_hook = [this, &host](std::uint32_t stream) {
      if (calls_[stream].finished || calls_[stream].refused) ++events_after_end_;
      maybe_answer(host, stream);
    };
  }
  void check_open(Host& host, std::uint32_t stream) {
    const Call& call = calls_[stream];
    if (call.finished || call.refused || host.server.calls[stream].cancelled) ++events_after_end_;
  }
  void maybe_answer(Host& host, std::uint32_t stream) {
    if (below(3)) return;
    if (below(2)) host.send(stream, std::string(below(400), 'a'));
    if (below(3) == 0) return;
    const bool cancelled = host.server.calls[stream].cancelled;
    host.finish(stream, below(3) ? Status()
                                 : internal_error("b\xc3\xa4"
                                                  "d"));
    calls_[stream].finished |= !cancelled;
  }
  void answer_something(Host& host) {
    if (calls_.empty()) return;
    auto chosen = calls_.begin();
    std::advance(chosen, static_cast<std::ptrdiff_t>(below(calls_.size())));
    maybe_answer(host, chosen->first);
  }

  std::string mutated() {
    std::string bytes = seeds_[below(seeds_.size())];
    for (std::size_t n = below(5); n > 0 && !bytes.empty(); --n) {
      // Mostly behind the greeting, where there is more to break.
      const std::size_t at = below(8)
                                 ? std::min<std::size_t>(24 + below(bytes.size()), bytes.size() - 1)
                                 : below(bytes.size());
      switch (below(7)) {
        case 0:
          bytes[at] = static_cast<char>(bytes[at] ^ (1 << below(8)));
          break;
        case 1:
          bytes[at] = static_cast<char>(below(256));
          break;
        case 2:
          bytes.erase(at, 1 + below(12));
          break;
        case 3:
          bytes.insert(at, std::string(1 + below(12), static_cast<char>(below(256))));
          break;
        case 4:
          bytes.insert(at, bytes.substr(below(bytes.size()), below(60)));
          break;
        case 5:
          bytes.resize(at);
          break;
        case 6:
          insert_frame(bytes);
          break;
      }
    }
    return bytes;
  }

  // A well-formed frame at a place where a frame begins.
  void insert_frame(std::string& bytes) {
    if (bytes.size() < 33 || bytes.compare(0, 24, NGHTTP2_CLIENT_MAGIC) != 0) return;
    std::size_t at = 24;
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
    for (std::size_t n = 1 + below(10); n > 0 && at + 9 <= bytes.size(); --n) {
      at += 9 + (std::size_t{byte(at)} << 16 | std::size_t{byte(at + 1)} << 8 | byte(at + 2));
    }
    at = std::min(at, bytes.size());
    const auto id = static_cast<std::uint32_t>(below(16));
    const std::string choices[] = {
        reset(id),
        window_update(id, static_cast<std::uint32_t>(below(2) ? below(100) : 0x7fffffff)),
        data(id, std::string(below(20), '\0'), below(2)),
        headers(id, grpc_head(), 5),
        headers(id, grpc_head()),
        settings({{static_cast<int>(below(9)), static_cast<std::uint32_t>(random_())}}),
        frame(NGHTTP2_PING, 0, 0, "pingpong"),
        frame(NGHTTP2_PRIORITY, 0, id, "\0\0\0\1\x10"),
        frame(NGHTTP2_GOAWAY, 0, 0, std::string(8, '\0')),
        frame(static_cast<std::uint8_t>(below(16)), static_cast<std::uint8_t>(below(256)), id,
              std::string(below(30), static_cast<char>(below(256))))};
    bytes.insert(at, choices[below(std::size(choices))]);
  }

  std::string verdict(Host& host) {
    if (events_after_end_) return "the handler heard of a call that was over";
    if (!host.server.aligned || !host.server.owned) return "a message lies where it must not";
    for (const auto& [id, call] : host.server.calls) {
      for (const std::string& message : call.messages) {
        if (message.size() > 200) return "a message above the limit";
      }
    }
    std::size_t open = 0;
    for (const auto& [id, call] : calls_) {
      open += !call.finished && !call.refused && !host.server.calls[id].cancelled;
    }
    if (host.connection->wants_close() && open) return "closed, and calls were not told";
    host.connection.reset();
    if (host.pool.stats().in_use_bytes != 0) return "memory is held";
    return {};
  }

  std::mt19937 random_;
  std::vector<std::string> seeds_;
  std::map<std::uint32_t, Call> calls_;
  std::size_t events_after_end_ = 0;
};

TEST_CASE("http2 fuzz: mutated streams") {
  Fuzzer fuzzer(2026);
  for (int i = 0; i < 25'000; ++i) {
    const std::string wrong = fuzzer.run();
    CAPTURE(i);
    REQUIRE(wrong == "");
  }
  // The mutations reach all the way in.
  CHECK(fuzzer.calls > 20'000);
  CHECK(fuzzer.messages > 10'000);
  CHECK(fuzzer.closed > 2'000);
}

}  // namespace
}  // namespace servolley::net::http2_test
