// How often a large body is copied in user space. Sanitizers have a memcpy of their own, so there
// it is not counted.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)

#include <doctest/doctest.h>

#include <utility>

#include "grpc_harness.h"
#include "net/http2_wire.h"

namespace {

thread_local bool counting = false;
thread_local std::size_t copied = 0;

void* copy_up(void* to, const void* from, std::size_t bytes) {
  void* const result = to;
  asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(bytes) : : "memory");
  return result;
}

}  // namespace

// In place of the C library's, for this executable and the libraries that it loads.
extern "C" {
void* memcpy(void* __restrict to, const void* __restrict from, std::size_t bytes) {
  if (counting) copied += bytes;
  return copy_up(to, from, bytes);
}

void* memmove(void* to, const void* from, std::size_t bytes) {
  if (counting) copied += bytes;
  if (to <= from || static_cast<char*>(to) >= static_cast<const char*>(from) + bytes) {
    return copy_up(to, from, bytes);
  }
  auto* end = static_cast<char*>(to) + bytes - 1;
  const auto* source = static_cast<const char*>(from) + bytes - 1;
  asm volatile("std\n\trep movsb\n\tcld" : "+D"(end), "+S"(source), "+c"(bytes) : : "memory");
  return to;
}
}

namespace servolley::engine {
namespace {

// y = x; what the model itself copies is not counted.
Status compute(Pool& pool, std::span<const TensorView> inputs, std::span<OutputTensor> outputs) {
  const bool before = std::exchange(counting, false);
  Status status = copy_through(pool, inputs, outputs);
  counting = before;
  return status;
}

std::string infer_bytes(std::size_t floats) {
  const std::string json = R"({"inputs":[{"name":"x","shape":[1,)" + std::to_string(floats) +
                           R"(],"datatype":"FP32","parameters":{"binary_data_size":)" +
                           std::to_string(floats * 4) +
                           R"(}}],"parameters":{"binary_data_output":true}})";
  return post("/v2/models/m/infer", json + std::string(floats * 4, 'x'),
              "Inference-Header-Content-Length: " + std::to_string(json.size()) + "\r\n");
}

// Sends a request as sockets deliver it, 64 KB at most at once; counts what the core copies from
// the first byte to the last one of the answer.
std::size_t copied_for(Engine& engine, Client& client, std::string_view request, Answer& answer) {
  Connection& connection = client.connection();
  copied = 0;
  while (!request.empty()) {
    const auto space = connection.receive_space();
    const std::size_t n = std::min({space.size(), request.size(), std::size_t{64} << 10});
    std::memcpy(space.data(), request.data(), n);
    counting = true;
    connection.received(n);
    counting = false;
    request.remove_prefix(n);
  }
  counting = true;
  engine.tick();
  counting = false;
  for (int i = 0; i < 1000; ++i) {
    if (client.read(answer)) return copied;
    counting = true;
    connection.writable();
    counting = false;
  }
  FAIL("no answer");
  return copied;
}

// A ModelInferRequest or PredictRequest for so many floats, in frames as clients cut them.
std::string grpc_call(std::uint32_t stream, std::string_view path, const std::string& message,
                      std::size_t frame_bytes) {
  using namespace net::http2_test;
  const std::string head = literal(":method", "POST") + literal(":scheme", "http") +
                           literal(":path", path) + literal(":authority", "h") +
                           literal("content-type", "application/grpc");
  std::string bytes = headers(stream, head);
  const std::string body = with_prefix(message);
  for (std::size_t at = 0; at < body.size(); at += frame_bytes) {
    bytes += data(stream, body.substr(at, frame_bytes), at + frame_bytes >= body.size());
  }
  return bytes;
}

std::string tensor_message(std::string_view path, std::size_t floats, std::string_view model) {
  const std::string data(floats * 4, 'x');
  const std::string dims = proto_varint(1) + proto_varint(floats);
  if (path == kInferPath) {
    return proto_field(1, model) +
           proto_field(5, proto_field(1, "x") + proto_field(2, "FP32") + proto_field(3, dims)) +
           proto_field(7, data);
  }
  const std::string shape =
      proto_field(2, "\x08\1") + proto_field(2, "\x08" + proto_varint(floats));
  return proto_field(1, proto_field(1, model)) +
         proto_field(2, proto_field(1, "x") + proto_field(2, "\x08\1" + proto_field(2, shape) +
                                                                 proto_field(4, data)));
}

// Reads until the answer to a call has ended.
std::size_t grpc_copied_for(Engine& engine, Client& client, std::string_view request,
                            std::uint32_t stream, std::string& said) {
  Connection& connection = client.connection();
  copied = 0;
  while (!request.empty()) {
    const auto space = connection.receive_space();
    const std::size_t n = std::min({space.size(), request.size(), std::size_t{64} << 10});
    std::memcpy(space.data(), request.data(), n);
    counting = true;
    connection.received(n);
    counting = false;
    request.remove_prefix(n);
  }
  counting = true;
  engine.tick();
  counting = false;
  for (int i = 0; i < 1000; ++i) {
    char chunk[4096];
    for (ssize_t n = 0; (n = ::recv(client.peer(), chunk, sizeof chunk, 0)) > 0;) {
      said.append(chunk, static_cast<std::size_t>(n));
    }
    if (net::http2_test::answers_of(said)[stream].ended) return copied;
    counting = true;
    connection.writable();
    counting = false;
  }
  FAIL("no answer");
  return copied;
}

TEST_CASE("of a gRPC message of 602 KB one copy is made at most, and none of the answer") {
  constexpr std::size_t kFloats = 150'528;
  constexpr std::size_t kBytes = kFloats * 4;
  constexpr std::size_t kRead = 64 << 10;
  constexpr std::size_t kSmall = 16 << 10;
  constexpr std::size_t kLargeFrame = 1 << 20;
  const std::byte* bound = nullptr;
  Engine engine({});
  serve(
      engine, unary_signature(DType::kFp32, {-1, -1}),
      [&](auto inputs, auto, auto outputs) {
        bound = inputs[0].data;
        return compute(engine.pool(), inputs, outputs);
      },
      with(Execution::kInline));
  for (const std::string_view path : {kInferPath, kPredictPath}) {
    for (const std::size_t frame_bytes : {std::size_t{16} << 10, kLargeFrame}) {
      CAPTURE(path);
      CAPTURE(frame_bytes);
      Client client(engine);
      using namespace net::http2_test;
      // Large frames are taken once the server's settings are acknowledged.
      client.send(NGHTTP2_CLIENT_MAGIC +
                  settings({{NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 1 << 30}}) +
                  frame(NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK, 0) + window_update(0, 1 << 30));
      std::string said;
      for (std::uint32_t stream = 1; stream < 6; stream += 2) {
        const std::string call =
            grpc_call(stream, path, tensor_message(path, kFloats, "m"), frame_bytes);
        const std::size_t bytes = grpc_copied_for(engine, client, call, stream, said);
        const WireAnswer answer = answers_of(said)[stream];
        REQUIRE(answer.field("grpc-status") == "0");
        CHECK(answer.body.find(std::string(kBytes, 'x')) != std::string::npos);
        MESSAGE(bytes, " bytes copied");
        CHECK(bytes <= (frame_bytes == kLargeFrame ? kRead : kBytes) + kSmall);
        // Nobody has to copy it for its address.
        CHECK(reinterpret_cast<std::uintptr_t>(bound) % 64 == 0);
      }
    }
  }
}

TEST_CASE(
    "of a body of 602 KB, only what came with its head is copied, and nothing of the answer") {
  constexpr std::size_t kFloats = 150'528;
  constexpr std::size_t kBytes = kFloats * 4;
  // Of the first read; heads, JSON and bookkeeping.
  constexpr std::size_t kRead = 64 << 10;
  constexpr std::size_t kSmall = 8 << 10;
  Engine engine({});
  serve(
      engine, unary_signature(DType::kFp32, {-1, -1}),
      [&engine](auto inputs, auto, auto outputs) {
        return compute(engine.pool(), inputs, outputs);
      },
      with(Execution::kInline));
  Client client(engine);
  const std::string request = infer_bytes(kFloats);
  for (int round = 0; round < 3; ++round) {
    Answer answer;
    const std::size_t bytes = copied_for(engine, client, request, answer);
    REQUIRE(answer.status == 200);
    REQUIRE(answer.body.size() > kBytes);
    CHECK(answer.body.ends_with(request.substr(request.size() - kBytes)));
    MESSAGE(bytes, " bytes copied");
    CHECK(bytes <= kRead + kSmall);
  }
  // The counter counts: one more copy in the model is seen.
  serve(
      engine, unary_signature(DType::kFp32, {-1, -1}),
      [&engine](auto inputs, auto, auto outputs) {
        return copy_through(engine.pool(), inputs, outputs);
      },
      with(Execution::kInline), "copying");
  std::string other = request;
  other.replace(other.find("/m/"), 3, "/copying/");
  Answer answer;
  const std::size_t bytes = copied_for(engine, client, other, answer);
  REQUIRE(answer.status == 200);
  CHECK(bytes >= kBytes);
}

}  // namespace
}  // namespace servolley::engine

#endif
