// Where the bytes lie, and what a connection allocates.

#include <doctest/doctest.h>
#include <malloc.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "net/allocations.h"
#include "net/http1_link.h"
#include "net/http1_streams.h"

namespace {

using servolley::net::allocations;
using servolley::net::live_bytes;

void* counted(void* memory) {
  if (memory) {
    ++allocations;
    live_bytes += malloc_usable_size(memory);
  }
  return memory;
}
void* counted_or_throw(void* memory) {
  if (!memory) throw std::bad_alloc();
  return counted(memory);
}
void* aligned(std::size_t bytes, std::align_val_t alignment) {
  const auto step = static_cast<std::size_t>(alignment);
  return std::aligned_alloc(step, (bytes + step - 1) / step * step);
}
void counted_free(void* memory) {
  if (memory) live_bytes -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

// All of this program's allocations go through here.
void* operator new(std::size_t n) { return counted_or_throw(std::malloc(n)); }
void* operator new[](std::size_t n) { return counted_or_throw(std::malloc(n)); }
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  return counted(std::malloc(n));
}
void* operator new[](std::size_t n, const std::nothrow_t&) noexcept {
  return counted(std::malloc(n));
}
void* operator new(std::size_t n, std::align_val_t a) { return counted_or_throw(aligned(n, a)); }
void* operator new[](std::size_t n, std::align_val_t a) { return counted_or_throw(aligned(n, a)); }
void* operator new(std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return counted(aligned(n, a));
}
void* operator new[](std::size_t n, std::align_val_t a, const std::nothrow_t&) noexcept {
  return counted(aligned(n, a));
}
void operator delete(void* p) noexcept { counted_free(p); }
void operator delete[](void* p) noexcept { counted_free(p); }
void operator delete(void* p, std::size_t) noexcept { counted_free(p); }
void operator delete[](void* p, std::size_t) noexcept { counted_free(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { counted_free(p); }
void operator delete[](void* p, const std::nothrow_t&) noexcept { counted_free(p); }
void operator delete(void* p, std::align_val_t) noexcept { counted_free(p); }
void operator delete[](void* p, std::align_val_t) noexcept { counted_free(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { counted_free(p); }
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept { counted_free(p); }
void operator delete(void* p, std::align_val_t, const std::nothrow_t&) noexcept { counted_free(p); }
void operator delete[](void* p, std::align_val_t, const std::nothrow_t&) noexcept {
  counted_free(p);
}

namespace servolley::net {
namespace {

// Answers with the body and allocates nothing itself.
class Echo final : public Http1Handler {
 public:
  BodyPlan plan_body(const RequestHead&) override { return {{}, 64 << 20, 0}; }
  void on_request(HttpRequest&& request) override {
    if (request.body_owner) {
      answer_.add(std::move(request.body_owner), request.body.data(), request.body.size());
    } else {
      answer_.add({}, request.body.data(), request.body.size());
    }
    connection->respond(request.exchange, {.content_type = "application/octet-stream"}, answer_,
                        {});
    ++calls;
  }
  Http1Connection* connection = nullptr;
  std::size_t calls = 0;

 private:
  Payload answer_;
};

void exchange(Http1Connection& connection, std::string_view input, std::size_t step) {
  while (!input.empty()) {
    const auto space = connection.receive_space();
    const std::size_t bytes = std::min({space.size(), input.size(), step});
    std::memcpy(space.data(), input.data(), bytes);
    connection.received(bytes, {});
    input.remove_prefix(bytes);
    iovec pieces[8];
    while (const std::size_t count = connection.output(pieces, 8)) {
      std::size_t sent = 0;
      for (std::size_t i = 0; i < count; ++i) sent += pieces[i].iov_len;
      connection.sent(sent, {});
    }
  }
}

TEST_CASE("a warm connection allocates nothing") {
  Pool pool(cpu_device(), {});
  ReadScratch scratch;
  Echo echo;
  Http1Connection connection(echo, pool, scratch, {}, {});
  echo.connection = &connection;
  std::string pipelined;
  for (int i = 0; i < 40; ++i) pipelined += post("/v2/models/m/infer", std::string(200, 'x'));
  const std::vector<std::pair<std::string, std::size_t>> traffic = {
      {post("/v2/models/m/infer", std::string(200, 'x')), 1 << 20},
      {post("/v2/models/m/infer", std::string(3000, 'x')), 1 << 20},  // does not fit inline
      {post("/v2/models/m/infer", std::string(200, 'x')), 100},       // cut into reads
      {post("/v2/models/m/infer", std::string(600000, 'x')), 65536},  // a pooled body
      {chunked("/v2/models/m/infer", "c8\r\n" + std::string(200, 'x') + "\r\n0\r\n\r\n"), 90},
      {pipelined, 1 << 20},
      {get("/v2/health/live"), 1 << 20},
  };
  for (const auto& [input, step] : traffic) {
    CAPTURE(input.substr(0, 100));
    for (int i = 0; i < 3; ++i) exchange(connection, input, step);
    const std::size_t calls = echo.calls;
    const std::size_t before = allocations;
    for (int i = 0; i < 100; ++i) exchange(connection, input, step);
    CHECK(allocations - before == 0);
    CHECK(echo.calls - calls >= 100);
  }
  CHECK(pool.stats().in_use_bytes == 0);
}

TEST_CASE("an idle connection is small, whatever it has carried") {
  Pool pool(cpu_device(), {.keep_total_bytes = 0});
  ReadScratch scratch;
  Echo echo;
  const std::size_t before = live_bytes;
  auto connection =
      std::make_unique<Http1Connection>(echo, pool, scratch, Http1Limits{}, TimePoint{});
  echo.connection = connection.get();
  const std::size_t fresh = live_bytes - before;
  CHECK(fresh <= 2048);
  exchange(*connection, post("/", std::string(100, 'x')), 1 << 20);
  exchange(*connection, post("/", std::string(1 << 20, 'x')), 1 << 20);
  exchange(*connection, get("/" + std::string(5000, 'x')), 10);
  exchange(*connection, chunked("/", "64\r\n" + std::string(100, 'x') + "\r\n0\r\n\r\n"), 1);
  CHECK(pool.stats().in_use_bytes == 0);
  // The pool keeps bookkeeping of its own, so count what goes with the connection.
  const std::size_t used = live_bytes;
  connection.reset();
  const std::size_t after_use = used - live_bytes;
  CHECK(after_use <= 2048);
  MESSAGE("a fresh connection has ", fresh, " bytes, after use ", after_use);
}

TEST_CASE("a large body is read to where it stays, aligned as planned") {
  for (const std::size_t align_at : {0, 1, 63, 64, 134, 1000}) {
    for (const std::size_t arrived : {0, 1, 100, 3000}) {
      Link link;
      link.recorder.align_at = align_at;
      const std::string body(100000, 'x');
      const std::byte* final_body = nullptr;
      Buffer owner;
      link.recorder.on_call = [&](HttpRequest& request) {
        final_body = request.body.data();
        owner = std::move(request.body_owner);
        CHECK(request.body.size() == body.size());
        CHECK(request.head.find("x-late")->value == "still here");
      };
      const std::string input = post("/infer", body, "X-Late: still here\r\n");
      const std::size_t head = input.size() - body.size();
      link.read(input.substr(0, head + arrived));
      const std::span<std::byte> space = link.connection.receive_space();
      CHECK(space.size() == body.size() - arrived);
      for (std::size_t fed = arrived; fed < body.size();) {
        CHECK(link.connection.receive_space().data() == space.data() + (fed - arrived));
        fed += link.read(std::string_view(body).substr(fed, 4096));
      }
      REQUIRE(final_body);
      CHECK(final_body + arrived == space.data());
      CHECK(reinterpret_cast<std::uintptr_t>(final_body + align_at) % 64 == 0);
      CHECK(owner.data() <= final_body);
      CHECK(owner.unique());
      CHECK(link.recorder.calls[0].body == body);
      // The next read goes to the shared scratch again.
      CHECK(link.connection.receive_space().data() == link.scratch.data.get());
      owner.reset();
      CHECK(link.pool.stats().in_use_bytes == 0);
    }
  }
}

TEST_CASE("a chunked body is aligned too, and has an owner") {
  for (const std::size_t align_at : {0, 1, 134}) {
    Link link;
    link.recorder.align_at = align_at;
    std::string chunks;
    std::string body;
    for (int i = 0; i < 200; ++i) {
      const std::string data(static_cast<std::size_t>(100 + i), static_cast<char>('a' + i % 26));
      char size[20];
      std::snprintf(size, sizeof size, "%zx\r\n", data.size());
      chunks += size + data + "\r\n";
      body += data;
    }
    link.recorder.on_call = [&](HttpRequest& request) {
      CHECK(reinterpret_cast<std::uintptr_t>(request.body.data() + align_at) % 64 == 0);
      CHECK(request.body_owner.unique());
    };
    link.feed(chunked("/", chunks + "0\r\n\r\n"), 777);
    REQUIRE(link.recorder.calls.size() == 1);
    CHECK(link.recorder.calls[0].body == body);
    CHECK(link.pool.stats().in_use_bytes == 0);
  }
}

TEST_CASE("a small body is a view of the read buffer") {
  Link link;
  bool owned = true;
  const std::byte* body = nullptr;
  link.recorder.on_call = [&](HttpRequest& request) {
    owned = static_cast<bool>(request.body_owner);
    body = request.body.data();
  };
  const std::string input = post("/", "hello");
  link.feed(input);
  CHECK_FALSE(owned);
  CHECK(body == link.scratch.data.get() + input.size() - 5);
  CHECK(link.pool.stats().allocations == 0);
}

TEST_CASE("an answer's large segments are sent from where they lie and given back once sent") {
  Link link;
  link.feed(get("/"));
  auto large = link.pool.allocate(100000);
  auto small = link.pool.allocate(100);
  REQUIRE(large);
  REQUIRE(small);
  std::memset(large->data(), 'L', 100000);
  std::memset(small->data(), 's', 100);
  const std::byte* const where = large->data();
  Payload body;
  body.add_static("start");
  body.add(std::move(*large), where, 100000);
  const std::byte* const small_bytes = small->data();
  body.add(std::move(*small), small_bytes, 100);
  link.connection.respond(link.recorder.calls[0].exchange, {}, body, link.now);
  iovec pieces[8];
  REQUIRE(link.connection.output(pieces, 8) == 3);
  CHECK(pieces[1].iov_base == where);
  CHECK(pieces[1].iov_len == 100000);
  CHECK(pieces[2].iov_len == 100);
  CHECK(pieces[2].iov_base != small_bytes);
  CHECK(link.connection.output(pieces, 2) == 2);
  const std::size_t in_use = link.pool.stats().in_use_bytes;
  CHECK(in_use >= 100000);
  link.pump(pieces[0].iov_len + 99999);
  CHECK(link.pool.stats().in_use_bytes == in_use);
  link.pump(1);
  CHECK(link.pool.stats().in_use_bytes < 100000);
  link.pump();
  CHECK(link.pool.stats().in_use_bytes == 0);
  CHECK(link.out == "HTTP/1.1 200 OK\r\nContent-Length: 100105\r\n\r\nstart" +
                        std::string(100000, 'L') + std::string(100, 's'));
}

TEST_CASE("output can be handed over with its leases, and ends a pause like sending does") {
  Link link({.limits = {.exchanges = 2}});
  link.read(get("/a") + get("/b") + get("/c") + "POST /d HTTP/1.1");
  REQUIRE(link.recorder.calls.size() == 2);
  auto large = link.pool.allocate(50000);
  REQUIRE(large);
  const std::byte* const where = large->data();
  std::memset(large->data(), 'L', 50000);
  Payload body;
  body.add(std::move(*large), where, 50000);
  link.connection.respond(link.recorder.calls[1].exchange, {}, body, link.now);
  link.respond(link.recorder.calls[0].exchange, "first");
  link.now += std::chrono::seconds(500);

  Payload taken;
  link.connection.take_output(taken, link.now);
  CHECK_FALSE(link.connection.has_output());
  CHECK(link.recorder.calls.size() == 3);
  CHECK(link.connection.next_deadline() == link.now + std::chrono::seconds(10));
  link.respond(link.recorder.calls[2].exchange, "overwrites what was sent inline");

  std::string text;
  bool in_place = false;
  for (const Segment& segment : taken.segments()) {
    CHECK(segment.owner);
    text += as_text({segment.data, segment.size});
    in_place |= segment.data == where;
  }
  const Replies replies(text);
  REQUIRE(replies.list.size() == 2);
  CHECK(replies.list[0].body == "first");
  CHECK(replies.list[1].body == std::string(50000, 'L'));
  CHECK(in_place);
  link.pump();
  const std::size_t in_use = link.pool.stats().in_use_bytes;
  taken.clear();
  CHECK(link.pool.stats().in_use_bytes + 50000 <= in_use);
}

TEST_CASE("leases of dropped answers are given back") {
  Link link;
  link.feed(get("/a") + get("/b") + "HEAD /c HTTP/1.1\r\nHost: h\r\n\r\n");
  for (const SeenCall& call : link.recorder.calls) {
    auto buffer = link.pool.allocate(50000);
    REQUIRE(buffer);
    const std::byte* const data = buffer->data();
    Payload body;
    body.add(std::move(*buffer), data, 50000);
    link.connection.respond(call.exchange + (call.target == "/a" ? 100 : 0), {}, body, link.now);
  }
  // "/a" was never answered, "/c" has no body: only "/b" is held.
  CHECK(link.pool.stats().in_use_bytes < 100000);
  link.connection.received_eof(link.now);
  link.respond(link.recorder.calls[0].exchange, "x", {}, true);
  CHECK(link.pool.stats().in_use_bytes == 0);
  link.pump();
  CHECK(link.connection.wants_close());
}

TEST_CASE("without memory for a body the call is refused with 503; small calls still work") {
  const Pool::Options small{.ceiling_bytes = 10000};
  Link link({.limits = {}, .pool = small});
  link.answering();
  link.feed(post("/", std::string(500, 'x')));
  CHECK(link.status() == 200);
  link.feed("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 20000\r\n\r\n");
  REQUIRE(link.replies().list.size() == 2);
  CHECK(link.replies().list[1].status == 503);
  CHECK(link.replies().list[1].header("Retry-After") == "1");
  CHECK(link.connection.wants_read());
  link.advance(std::chrono::seconds(2));
  CHECK(link.connection.wants_close());

  Link chunks({.limits = {}, .pool = small});
  chunks.feed(chunked("/", "4e20\r\n" + std::string(20000, 'x')));
  CHECK(chunks.status() == 503);
  CHECK(chunks.pool.stats().in_use_bytes == 0);

  // Answers that do not fit into the pool go out all the same.
  Link large({.limits = {}, .pool = small});
  large.feed(get("/"));
  large.respond(large.recorder.calls[0].exchange, std::string(50000, 'y'));
  large.pump();
  CHECK(large.replies().list[0].body == std::string(50000, 'y'));
}

TEST_CASE("a body that was announced and not sent is not touched") {
  // 64 connections announce 60 MB each: address space within the pool's ceiling, not memory.
  Pool pool(cpu_device(), {.ceiling_bytes = std::size_t{8} << 30});
  ReadScratch scratch;
  Recorder recorder;
  recorder.limit_bytes = std::uint64_t{64} << 20;
  std::vector<std::unique_ptr<Http1Connection>> connections;
  const auto resident_pages = [] {
    std::size_t pages = 0;
    if (FILE* file = std::fopen("/proc/self/statm", "r")) {
      if (std::fscanf(file, "%*u %zu", &pages) != 1) pages = 0;
      std::fclose(file);
    }
    return pages;
  };
  const std::size_t before = resident_pages();
  REQUIRE(before > 0);
  for (int i = 0; i < 64; ++i) {
    connections.push_back(
        std::make_unique<Http1Connection>(recorder, pool, scratch, Http1Limits{}, TimePoint{}));
    const std::string head = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 60000000\r\n\r\nx";
    std::memcpy(connections.back()->receive_space().data(), head.data(), head.size());
    connections.back()->received(head.size(), {});
    CHECK(connections.back()->receive_space().size() == 59999999);
  }
  CHECK((resident_pages() - before) * 4096 < std::size_t{32} << 20);
}

}  // namespace
}  // namespace servolley::net
