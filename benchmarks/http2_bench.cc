// What HTTP/2 costs a small gRPC call: bytes of a read in, the message handed to the handler,
// answered, taken out. The kernel's part is not in it. One item is one call.

#include <benchmark/benchmark.h>
#include <nghttp2/nghttp2.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/device.h"
#include "net/http2.h"

namespace servolley::net {
namespace {

class Answering final : public Http2Handler {
 public:
  Status on_call(std::uint32_t, const GrpcHead& head, std::uint64_t*) override {
    benchmark::DoNotOptimize(head.path.data());
    return {};
  }
  void on_message(std::uint32_t stream, GrpcMessage&& message) override {
    answer_.add(std::move(message.owner), message.bytes.data(), message.bytes.size());
    connection->send_message(stream, answer_, MessageCoding::kIdentity, {});
    connection->finish(stream, Status(), {});
    ++calls;
  }
  void on_half_close(std::uint32_t) override {}
  void on_cancel(std::uint32_t) override {}
  Http2Connection* connection = nullptr;
  std::int64_t calls = 0;

 private:
  Payload answer_;
};

std::string frame(std::uint8_t type, std::uint8_t flags, std::uint32_t stream,
                  std::string_view payload) {
  std::string bytes;
  for (const int shift : {16, 8, 0}) bytes.push_back(static_cast<char>(payload.size() >> shift));
  bytes.push_back(static_cast<char>(type));
  bytes.push_back(static_cast<char>(flags));
  for (const int shift : {24, 16, 8, 0}) bytes.push_back(static_cast<char>(stream >> shift));
  return bytes.append(payload);
}

// A call's head as gRPC clients send it: the first writes every field to the table, the others name
// the entries. grpc-timeout is a literal each time, as a client with deadlines has it.
struct Heads {
  Heads() {
    nghttp2_hd_deflater* deflater = nullptr;
    nghttp2_hd_deflate_new(&deflater, 4096);
    const std::pair<const char*, const char*> fields[] = {
        {":method", "POST"},
        {":scheme", "http"},
        {":authority", "127.0.0.1:8001"},
        {"te", "trailers"},
        {"content-type", "application/grpc"},
        {"user-agent", "grpc-c++/1.62.0 grpc-c/39.0.0 (linux; chttp2)"},
        {"grpc-accept-encoding", "identity, deflate, gzip"}};
    std::array<nghttp2_nv, std::size(fields)> list;
    for (std::size_t i = 0; i < list.size(); ++i) {
      const auto bytes = [](const char* s) {
        return reinterpret_cast<std::uint8_t*>(const_cast<char*>(s));
      };
      list[i] = {bytes(fields[i].first), bytes(fields[i].second), std::strlen(fields[i].first),
                 std::strlen(fields[i].second), NGHTTP2_NV_FLAG_NONE};
    }
    // nghttp2 never indexes :path; gRPC's clients do.
    const std::string_view path = "/inference.GRPCInferenceService/ModelInfer";
    const std::string literal =
        std::string("\x44") + static_cast<char>(path.size()) + std::string(path);
    for (std::string* head : {&first, &next}) {
      std::array<std::uint8_t, 1024> block;
      const ssize_t size =
          nghttp2_hd_deflate_hd(deflater, block.data(), block.size(), list.data(), list.size());
      head->assign(reinterpret_cast<const char*>(block.data()), static_cast<std::size_t>(size));
    }
    nghttp2_hd_deflate_del(deflater);
    // The path is the oldest entry of the table: behind those that the deflater wrote.
    const auto written = std::count_if(next.begin(), next.end(), [](char index) {
      return static_cast<unsigned char>(index) >= 0x80 + 62;
    });
    first = literal + first;
    next = static_cast<char>(0x80 + 62 + written) + next;
    const std::string timeout = std::string(
        "\0\x0cgrpc-timeout\x04"
        "250m",
        19);
    first += timeout;
    next += timeout;
  }
  std::string first;
  std::string next;
};

void drink(Http2Connection& connection) {
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

void feed(Http2Connection& connection, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto space = connection.receive_space();
    const std::size_t part = std::min(space.size(), bytes.size());
    std::memcpy(space.data(), bytes.data(), part);
    connection.received(part, {});
    bytes.remove_prefix(part);
  }
}

// `streams` calls in each read, one read per iteration.
void run(benchmark::State& state, std::size_t streams, std::size_t message_bytes) {
  static const Heads heads;
  std::string message(5 + message_bytes, 'x');
  message[0] = '\0';
  for (int i = 1; i < 5; ++i)
    message[static_cast<std::size_t>(i)] = static_cast<char>(message_bytes >> (32 - 8 * i));
  // Large windows; refilled with every read.
  const std::string settings =
      frame(NGHTTP2_SETTINGS, 0, 0, std::string("\0\4\x7f\xff\xff\xff", 6));
  const std::string whole = frame(NGHTTP2_WINDOW_UPDATE, 0, 0, std::string("\x7f\0\0\0", 4));
  const auto refill_bytes = static_cast<std::uint32_t>(streams * message.size());
  std::string refill(4, '\0');
  for (int i = 0; i < 4; ++i)
    refill[static_cast<std::size_t>(i)] = static_cast<char>(refill_bytes >> (24 - 8 * i));

  const auto calls = [&](const std::string& head) {
    std::string bytes;
    std::vector<std::size_t> ids;
    for (std::size_t i = 0; i < streams; ++i) {
      ids.push_back(bytes.size() + 5);
      bytes += frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, 0, head);
      for (std::size_t at = 0; at < message.size(); at += 16384) {
        const bool last = at + 16384 >= message.size();
        ids.push_back(bytes.size() + 5);
        bytes += frame(NGHTTP2_DATA, last ? NGHTTP2_FLAG_END_STREAM : 0, 0,
                       std::string_view(message).substr(at, 16384));
      }
    }
    return std::pair(bytes + frame(NGHTTP2_WINDOW_UPDATE, 0, 0, refill), ids);
  };
  auto [input, ids] = calls(heads.next);
  const std::size_t frames_per_call = ids.size() / streams;

  Pool pool(cpu_device(), {});
  ReadScratch scratch(256 << 10);
  Answering handler;
  Http2Connection connection(handler, pool, scratch, {}, {});
  handler.connection = &connection;
  feed(connection,
       NGHTTP2_CLIENT_MAGIC + settings + frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0, "") + whole);
  std::uint32_t next_id = 1;
  feed(connection, frame(NGHTTP2_HEADERS, NGHTTP2_FLAG_END_HEADERS, next_id, heads.first) +
                       frame(NGHTTP2_DATA, NGHTTP2_FLAG_END_STREAM, next_id, std::string(5, '\0')));
  drink(connection);
  next_id += 2;
  for (auto _ : state) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::uint32_t id = next_id + 2 * static_cast<std::uint32_t>(i / frames_per_call);
      for (int b = 0; b < 4; ++b)
        input[ids[i] + static_cast<std::size_t>(b)] = static_cast<char>(id >> (24 - 8 * b));
    }
    next_id += 2 * static_cast<std::uint32_t>(streams);
    feed(connection, input);
    drink(connection);
  }
  if (connection.wants_close() ||
      handler.calls != 1 + static_cast<std::int64_t>(streams) * state.iterations()) {
    return state.SkipWithError("the connection failed");
  }
  state.SetItemsProcessed(handler.calls);
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(input.size()));
}

void BM_Http2SmallCall(benchmark::State& state) {
  run(state, static_cast<std::size_t>(state.range(0)), 150);
}
void BM_Http2Large602K(benchmark::State& state) { run(state, 1, 602112); }

BENCHMARK(BM_Http2SmallCall)->ArgName("streams")->Arg(1)->Arg(8)->Arg(64)->Arg(512);
BENCHMARK(BM_Http2Large602K);

}  // namespace
}  // namespace servolley::net
