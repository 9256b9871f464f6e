#pragma once

// Byte streams of whole client connections, for cutting and for mutating.

#include <string>
#include <string_view>
#include <vector>

#include "net/http2_link.h"
#include "net/http2_wire.h"

namespace servolley::net::http2_test {

// What a client said to a server that echoes, as one stream of bytes. `talk` may exchange what was
// said so far.
inline std::string recorded(const std::function<void(Link&, const std::function<void()>&)>& talk) {
  Link link;
  link.echo();
  std::string said;
  const auto exchange = [&] {
    for (bool busy = true; busy;) {
      const std::string up = link.Client::drink();
      link.Host::feed(up);
      const std::string down = link.Host::drink();
      link.Client::feed(down);
      said += up;
      busy = !up.empty() || !down.empty();
    }
  };
  exchange();
  talk(link, exchange);
  exchange();
  return said;
}

inline std::vector<std::string> recorded_streams() {
  std::vector<std::string> streams;
  streams.push_back(recorded([](Link& link, const auto&) { link.unary("/s/one", "question"); }));
  streams.push_back(recorded([](Link& link, const auto&) {
    for (int i = 0; i < 6; ++i)
      link.unary("/s/many", std::string(static_cast<std::size_t>(i * 50), 'q'));
  }));
  streams.push_back(recorded([](Link& link, const auto&) {
    const std::int32_t a = link.open(Client::head("/s/a"));
    const std::int32_t b = link.open(Client::head("/s/b"));
    for (int i = 0; i < 5; ++i) {
      link.say(a, std::string(40, 'a'));
      link.Client::send(b, with_prefix(std::string(60, 'b')).substr(0, 30));
      link.Client::send(b, with_prefix(std::string(60, 'b')).substr(30));
    }
    link.half_close(a);
    link.half_close(b);
  }));
  streams.push_back(recorded([](Link& link, const auto& exchange) {
    Fields fields = Client::head("/s/rich");
    fields.emplace_back("grpc-timeout", "5S");
    fields.emplace_back("grpc-encoding", "gzip");
    for (int i = 0; i < 30; ++i)
      fields.emplace_back("x-" + std::to_string(i), std::string(20, 'v'));
    const std::int32_t id = link.open(fields);
    link.Client::send(id, with_prefix("zipped", true));
    link.half_close(id);
    const std::int32_t cancelled = link.open(Client::head("/s/cancelled"));
    link.say(cancelled, "never mind");
    exchange();
    link.cancel(cancelled);
    nghttp2_submit_ping(link.session, NGHTTP2_FLAG_NONE, nullptr);
    nghttp2_submit_goaway(link.session, NGHTTP2_FLAG_NONE, 0, NGHTTP2_NO_ERROR, nullptr, 0);
  }));
  const std::string head = grpc_head();
  streams.push_back(greeting() + headers(1, head.substr(0, 30), 0) +
                    frame(NGHTTP2_CONTINUATION, NGHTTP2_FLAG_END_HEADERS, 1, head.substr(30)) +
                    frame(NGHTTP2_DATA, NGHTTP2_FLAG_PADDED, 1,
                          "\x04" + with_prefix("padded") + std::string(4, '\0')) +
                    window_update(1, 1000) + window_update(0, 1000) +
                    settings({{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 10}}) +
                    data(1, with_prefix(std::string(300, 'x'))) +
                    headers(1, literal("x-trailer", "t"), 5));
  return streams;
}

}  // namespace servolley::net::http2_test
