// Mutated streams, cut at random, answered in random order. Seeded: a failure repeats.

#include <doctest/doctest.h>

#include <random>

#include "net/http1_link.h"
#include "net/http1_streams.h"

namespace servolley::net {
namespace {

using namespace std::string_literals;

class Fuzzer {
 public:
  explicit Fuzzer(unsigned seed) : random_(seed), seeds_(valid_streams()) {}

  // One connection's life. Returns what is wrong with it; empty: nothing.
  std::string run() {
    const std::string input = mutated();
    Link link({.limits = {.target_bytes = 300,
                          .header_bytes = 2000,
                          .header_count = 70,
                          .body_bytes = 2000,
                          .chunks = 20,
                          .exchanges = 1 + below(6),
                          .unsent_bytes = 200 + below(2000)},
               .scratch_bytes = 64 + below(4000),
               .pool = {.ceiling_bytes = below(20) ? std::size_t{1} << 30 : below(6000)}});
    return live(link, input);
  }

  std::size_t errors = 0;
  std::size_t calls = 0;

 private:
  std::size_t below(std::size_t n) { return n ? random_() % n : 0; }

  std::string mutated() {
    std::string text = seeds_[below(seeds_.size())];
    if (below(4) == 0) text += seeds_[below(seeds_.size())];
    static const std::string kSpecial = "\r\n\0:; ,\t\x7f\xff\"0123456789abcdefAFx+-/"s;
    static const std::vector<std::string> kTokens = {"\r\n",
                                                     "\r\n\r\n",
                                                     "Content-Length: 5\r\n",
                                                     "Transfer-Encoding: chunked\r\n",
                                                     "Transfer-Encoding: identity\r\n",
                                                     "Connection: close\r\n",
                                                     "Host: x\r\n",
                                                     "Expect: 100-continue\r\n",
                                                     "ffffffffffffffff",
                                                     "0\r\n\r\n",
                                                     "5\r\nhello\r\n",
                                                     "HTTP/1.0",
                                                     "HEAD",
                                                     " \r\n ",
                                                     "99999999999999999999"};
    for (std::size_t n = below(4); n > 0 && !text.empty(); --n) {
      const std::size_t at = below(text.size());
      switch (below(7)) {
        case 0:
          text[at] = static_cast<char>(random_());
          break;
        case 1:
          text[at] = kSpecial[below(kSpecial.size())];
          break;
        case 2:
          text.erase(at, 1 + below(8));
          break;
        case 3:
          text.insert(at, 1, kSpecial[below(kSpecial.size())]);
          break;
        case 4:
          text.insert(at, kTokens[below(kTokens.size())]);
          break;
        case 5:
          text.insert(at, text.substr(below(text.size()), below(40)));
          break;
        default:
          text.resize(at);
          break;
      }
    }
    return text;
  }

  std::string live(Link& link, std::string_view input) {
    std::vector<std::uint64_t> unanswered;
    bool closed = false;
    std::string wrong;
    link.recorder.limit_bytes = 1500;
    link.recorder.align_at = below(200);
    link.recorder.on_plan = [&](const RequestHead&) {
      return BodyPlan{below(60) ? Status{} : not_found("no"), 1500, below(200)};
    };
    link.recorder.on_call = [&](HttpRequest& request) {
      if (closed) wrong = "a call after the end";
      if (request.body.size() > 1500) wrong = "a body over the limit";
      const Header* length = request.head.find("content-length");
      if (length && request.head.chunked) wrong = "ambiguous framing";
      if (length && std::stoull(std::string(length->value)) != request.body.size()) {
        wrong = "a body of another length";
      }
      unanswered.push_back(request.exchange);
      if (below(3) == 0) answer(link, unanswered);
    };
    bool eof = false;
    for (int turn = 0; turn < 4000 && wrong.empty(); ++turn) {
      if (link.connection.open_exchanges() > link.options.limits.exchanges)
        wrong = "too many open exchanges";
      if (link.connection.receive_space().empty()) wrong = "nowhere to read to";
      if (link.connection.wants_close()) {
        closed = true;
        break;
      }
      const std::size_t choice = below(10);
      if (choice < 5 && !input.empty()) {
        if (link.connection.wants_read() || below(50) == 0) {
          input.remove_prefix(link.read(input.substr(0, 1 + below(below(2) ? 20 : 2000))));
        }
      } else if (choice < 7) {
        if (!unanswered.empty()) answer(link, unanswered);
      } else if (choice < 9) {
        link.pump(below(2) ? below(50) : 100000);
      } else if (input.empty() && !eof && below(2)) {
        eof = true;
        link.connection.received_eof(link.now);
      } else if (below(200) == 0) {
        link.connection.drain();
      } else if (below(20) == 0) {
        link.advance(std::chrono::milliseconds(below(3000)));
      }
    }
    if (!closed && wrong.empty()) {
      wrong = "it never ends: " + std::to_string(input.size()) + " bytes left, " +
              std::to_string(link.connection.open_exchanges()) + " open, " +
              std::to_string(unanswered.size()) + " unanswered, output " +
              std::to_string(link.connection.has_output()) + ", reads " +
              std::to_string(link.connection.wants_read()) + ", eof " + std::to_string(eof);
    }
    calls += link.recorder.calls.size();
    return wrong.empty() ? check_output(link) : wrong;
  }

  void answer(Link& link, std::vector<std::uint64_t>& unanswered) {
    const std::size_t which = below(unanswered.size());
    const std::uint64_t exchange = unanswered[which];
    unanswered.erase(unanswered.begin() + static_cast<std::ptrdiff_t>(which));
    std::string extra = "X-Exchange: " + std::to_string(exchange) + "\r\n";
    for (const SeenCall& call : link.recorder.calls) {
      if (call.exchange == exchange && call.method == "HEAD") extra += "X-Head: 1\r\n";
    }
    Payload body;
    const std::size_t bytes = below(4) ? below(300) : below(20000);
    if (auto buffer = link.pool.allocate(bytes); buffer && below(2)) {
      std::memset(buffer->data(), 'z', bytes);
      const std::byte* const data = buffer->data();
      body.add(std::move(*buffer), data, bytes);
    } else {
      body.add_static(std::string_view(filler_).substr(0, bytes));
    }
    link.connection.respond(exchange, {.extra = extra, .close = below(40) == 0}, body, link.now);
  }

  // The answers that went out are whole, in the order of the calls, and an error is the last one.
  std::string check_output(const Link& link) {
    const Replies replies(link.out);
    if (replies.bad) return "malformed output";
    std::uint64_t last = 0;
    bool over = false;
    for (const Reply& reply : replies.list) {
      if (reply.status == 100) continue;
      if (over) return "output after the end";
      const std::string exchange = reply.header("X-Exchange");
      if (exchange.empty()) {
        ++errors;
        if (reply.status < 400) return "an answer from nobody";
        if (reply.header("Connection") != "close") return "an error without close";
      } else {
        if (std::stoull(exchange) <= last) return "answers out of order";
        last = std::stoull(exchange);
      }
      if (reply.header("Connection") == "close") over = true;
    }
    return {};
  }

  std::mt19937 random_;
  std::vector<std::string> seeds_;
  const std::string filler_ = std::string(20000, 'y');
};

TEST_CASE("mutated streams do no harm") {
  Fuzzer fuzzer(20260101);
  for (int i = 0; i < 50000; ++i) {
    const std::string wrong = fuzzer.run();
    if (!wrong.empty()) {
      CAPTURE(i);
      FAIL(wrong);
    }
  }
  // It went deep and it met errors.
  MESSAGE(fuzzer.calls, " calls, ", fuzzer.errors, " refused");
  CHECK(fuzzer.calls > 50000);
  CHECK(fuzzer.errors > 15000);
}

}  // namespace
}  // namespace servolley::net
