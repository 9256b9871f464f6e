#pragma once

// A connection without a socket: what tests feed it, what its handler saw, what it sent.

#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/device.h"
#include "net/http1.h"

namespace servolley::net {

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// A call as the handler saw it, in values.
struct SeenCall {
  std::uint64_t exchange = 0;
  std::string method;
  std::string target;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;

  bool same_as(const SeenCall& other) const {
    return method == other.method && target == other.target && headers == other.headers &&
           body == other.body;
  }
};

class Recorder : public Http1Handler {
 public:
  BodyPlan plan_body(const RequestHead& head) override {
    ++plans;
    return on_plan ? on_plan(head) : BodyPlan{{}, limit_bytes, align_at};
  }
  void on_request(HttpRequest&& request) override {
    SeenCall call{request.exchange,
                  std::string(request.head.method),
                  std::string(request.head.target),
                  {},
                  std::string(as_text(request.body))};
    for (const Header& header : request.head.headers) {
      call.headers.emplace_back(header.name, header.value);
    }
    calls.push_back(std::move(call));
    if (on_call) on_call(request);
  }

  std::uint64_t limit_bytes = 1 << 20;
  std::size_t align_at = 0;
  std::function<BodyPlan(const RequestHead&)> on_plan;
  std::function<void(HttpRequest&)> on_call;
  std::vector<SeenCall> calls;
  std::size_t plans = 0;
};

// One response as a client reads it.
struct Reply {
  int status = 0;
  std::string reason;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;

  std::string header(std::string_view name) const {
    for (const auto& [key, value] : headers) {
      if (key == name) return value;
    }
    return {};
  }
};

// Reads responses strictly; `bad` is set if anything is not one. A body may be missing only from
// the last one, and there wholly (HEAD); HEAD answers before that carry "X-Head: 1".
struct Replies {
  std::vector<Reply> list;
  bool bad = false;

  explicit Replies(std::string_view text) {
    while (!text.empty() && !bad) read(text);
  }

 private:
  void read(std::string_view& text) {
    const std::size_t end = text.find("\r\n\r\n");
    if (end == text.npos || !text.starts_with("HTTP/1.1 ")) {
      bad = true;
      return;
    }
    Reply reply;
    std::string_view head = text.substr(0, end + 2);
    text.remove_prefix(end + 4);
    const std::size_t line_end = head.find("\r\n");
    reply.status = std::stoi(std::string(head.substr(9, 3)));
    reply.reason = head.substr(13, line_end - 13);
    head.remove_prefix(line_end + 2);
    while (!head.empty()) {
      const std::size_t colon = head.find(": ");
      const std::size_t eol = head.find("\r\n");
      if (colon == head.npos || eol == head.npos || colon > eol) {
        bad = true;
        return;
      }
      reply.headers.emplace_back(head.substr(0, colon), head.substr(colon + 2, eol - colon - 2));
      head.remove_prefix(eol + 2);
    }
    const std::string length = reply.header("Content-Length");
    const bool bodiless = reply.status < 200 || reply.status == 204 || reply.status == 304;
    if (length.empty() != bodiless) bad = true;
    if (!length.empty() && reply.header("X-Head").empty()) {
      const std::size_t bytes = std::stoul(length);
      if (text.size() < bytes && !text.empty()) bad = true;
      reply.body = text.substr(0, bytes);
      text.remove_prefix(std::min(bytes, text.size()));
    }
    list.push_back(std::move(reply));
  }
};

struct LinkOptions {
  Http1Limits limits = {};
  std::size_t scratch_bytes = 64 << 10;
  Pool::Options pool = {};
};

class Link {
 public:
  using Options = LinkOptions;

  explicit Link(Options options_in = {})
      : options(options_in),
        pool(cpu_device(), options.pool),
        scratch(options.scratch_bytes),
        connection(recorder, pool, scratch, options.limits, now) {}

  // Answers every call at once with its exchange and body.
  Link& answering() {
    recorder.on_call = [this](HttpRequest& request) { echo(request.exchange); };
    return *this;
  }
  void echo(std::uint64_t exchange) {
    const SeenCall* call = nullptr;
    for (const SeenCall& seen : recorder.calls) {
      if (seen.exchange == exchange) call = &seen;
    }
    const std::string text = call->method + " " + call->target + " " + call->body;
    respond(exchange, text, call->method == "HEAD" ? "X-Head: 1\r\n" : "");
  }
  void respond(std::uint64_t exchange, std::string_view text = "ok", std::string_view extra = {},
               bool close = false) {
    Payload body;
    body.add_static(text);
    connection.respond(exchange, {.content_type = "text/plain", .extra = extra, .close = close},
                       body, now);
  }

  // Feeds in reads of at most `step` bytes, sending after each. Stops when the connection does not
  // want to read; returns how many bytes were fed.
  std::size_t feed(std::string_view bytes, std::size_t step = static_cast<std::size_t>(-1)) {
    std::size_t fed = 0;
    while (fed < bytes.size() && connection.wants_read() && !connection.wants_close()) {
      fed += read(bytes.substr(fed, step));
      pump();
    }
    return fed;
  }
  // One read.
  std::size_t read(std::string_view bytes) {
    const std::span<std::byte> space = connection.receive_space();
    const std::size_t count = std::min(bytes.size(), space.size());
    std::memcpy(space.data(), bytes.data(), count);
    connection.received(count, now);
    return count;
  }
  void pump(std::size_t most = static_cast<std::size_t>(-1)) {
    iovec pieces[3];
    while (most > 0) {
      const std::size_t count = connection.output(pieces, 3);
      if (count == 0) return;
      std::size_t bytes = 0;
      for (std::size_t i = 0; i < count && bytes < most; ++i) {
        const std::size_t part = std::min(pieces[i].iov_len, most - bytes);
        out.append(static_cast<const char*>(pieces[i].iov_base), part);
        bytes += part;
      }
      connection.sent(bytes, now);
      most -= bytes;
    }
  }
  void advance(Duration time) {
    now += time;
    if (connection.next_deadline() <= now) connection.on_deadline(now);
    pump();
  }
  Replies replies() const { return Replies(out); }
  // The status of the only response; -1 if there is not exactly one.
  int status() const {
    const Replies all(out);
    return all.bad || all.list.size() != 1 ? -1 : all.list[0].status;
  }

  const Options options;
  TimePoint now{std::chrono::hours(1)};
  Pool pool;
  ReadScratch scratch;
  Recorder recorder;
  Http1Connection connection;
  std::string out;
};

}  // namespace servolley::net
