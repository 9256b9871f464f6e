// What HTTP/1 costs a small call: bytes of a read in, parsed, handed to the handler, answered,
// taken out. The kernel's part is not in it. One iteration is one call.

#include <benchmark/benchmark.h>
#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <string>

#include "device/device.h"
#include "net/http1.h"

namespace servolley::net {
namespace {

// As wrk with a script sends it, and as tritonclient does.
constexpr std::string_view kWrkHead =
    "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    "Content-Type: application/octet-stream\r\nInference-Header-Content-Length: 134\r\n"
    "Content-Length: 198\r\n\r\n";
constexpr std::string_view kTritonHead =
    "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    "Content-Type: application/octet-stream\r\ninference-header-content-length: 134\r\n"
    "User-Agent: geventhttpclient/2.0\r\nAccept-Encoding: identity\r\n"
    "Content-Length: 198\r\n\r\n";
constexpr std::string_view kChunkedHead =
    "POST /v2/models/tiny/infer HTTP/1.1\r\nHost: 127.0.0.1:8000\r\n"
    "Transfer-Encoding: chunked\r\n\r\nC6\r\n";

class Echo final : public Http1Handler {
 public:
  BodyPlan plan_body(const RequestHead&) override { return {{}, 64 << 20, 0}; }
  void on_request(HttpRequest&& request) override {
    answer_.add({}, request.body.data(), request.body.size());
    const ResponseHead head{.content_type = "application/octet-stream",
                            .inference_json_length = 131};
    connection->respond(request.exchange, head, answer_, {});
    ++calls;
  }
  Http1Connection* connection = nullptr;
  std::int64_t calls = 0;

 private:
  Payload answer_;
};

// Feeds `input` as one read per iteration.
void run(benchmark::State& state, const std::string& input) {
  Pool pool(cpu_device(), {});
  ReadScratch scratch;
  Echo echo;
  Http1Connection connection(echo, pool, scratch, {}, {});
  echo.connection = &connection;
  for (auto _ : state) {
    for (std::size_t fed = 0; fed < input.size();) {
      const auto space = connection.receive_space();
      const std::size_t bytes = std::min(space.size(), input.size() - fed);
      std::memcpy(space.data(), input.data() + fed, bytes);
      connection.received(bytes, {});
      fed += bytes;
    }
    iovec pieces[16];
    std::size_t total = 0;
    while (const std::size_t count = connection.output(pieces, 16)) {
      std::size_t bytes = 0;
      for (std::size_t i = 0; i < count; ++i) bytes += pieces[i].iov_len;
      connection.sent(bytes, {});
      total += bytes;
    }
    benchmark::DoNotOptimize(total);
  }
  if (connection.wants_close()) return state.SkipWithError("the connection failed");
  state.SetItemsProcessed(echo.calls);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(input.size()));
}

std::string small(std::string_view head) { return std::string(head) + std::string(198, 'x'); }

void BM_Http1SmallWrk(benchmark::State& state) { run(state, small(kWrkHead)); }
void BM_Http1SmallTriton(benchmark::State& state) { run(state, small(kTritonHead)); }
void BM_Http1SmallChunked(benchmark::State& state) {
  run(state, small(kChunkedHead) + "\r\n0\r\n\r\n");
}
void BM_Http1Pipelined16(benchmark::State& state) {
  std::string input;
  for (int i = 0; i < 16; ++i) input += small(kWrkHead);
  run(state, input);
}
void BM_Http1Large602K(benchmark::State& state) {
  constexpr std::size_t kBody = 602112;
  run(state, "POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: " +
                 std::to_string(kBody) + "\r\n\r\n" + std::string(kBody, 'x'));
}

BENCHMARK(BM_Http1SmallWrk);
BENCHMARK(BM_Http1SmallTriton);
BENCHMARK(BM_Http1SmallChunked);
BENCHMARK(BM_Http1Pipelined16);
BENCHMARK(BM_Http1Large602K);

}  // namespace
}  // namespace servolley::net
