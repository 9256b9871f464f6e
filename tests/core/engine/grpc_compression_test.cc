#include <doctest/doctest.h>

#include <optional>
#include <random>

#include "codec/compression.h"
#include "device/device.h"
#include "net/http2_link.h"
#include "wired.h"

namespace servolley::engine {
namespace {

namespace h2 = net::http2_test;

constexpr std::string_view kInfer = "/inference.GRPCInferenceService/ModelInfer";
constexpr std::string_view kStreamInfer = "/inference.GRPCInferenceService/ModelStreamInfer";
constexpr std::string_view kControl = "/grpc.health.v1.Health/Watch";

std::string varint(std::size_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes.push_back(static_cast<char>(value | 128));
  bytes.push_back(static_cast<char>(value));
  return bytes;
}

std::string field(int number, std::string_view value) {
  return varint(static_cast<std::size_t>(number) << 3 | 2) + varint(value.size()) +
         std::string(value);
}

// A ModelInferRequest for `rows` rows of four floats.
std::string infer_message(std::size_t rows, float value = 1) {
  const std::string shape = field(3, varint(rows) + varint(4));
  const std::vector<float> values(rows * 4, value);
  return field(1, "m") + field(5, field(1, "x") + field(2, "FP32") + shape) +
         field(7, {reinterpret_cast<const char*>(values.data()), rows * 16});
}

h2::Fields head(std::string_view path, std::string_view accepted) {
  h2::Fields fields = h2::Client::head(path);
  for (auto& [name, value] : fields) {
    if (name == "grpc-accept-encoding") value = accepted;
  }
  return fields;
}

// A message as it came: whether it was compressed, and what was in it.
struct Message {
  bool compressed = false;
  std::size_t bytes = 0;
  std::string content;
};

std::vector<Message> messages_of(const h2::ClientCall& call) {
  Pool pool(cpu_device(), {});
  const bool gzip = h2::field_of(call.headers, "grpc-encoding") == "gzip";
  std::vector<Message> messages;
  std::size_t at = 0;
  for (const std::string& raw : call.messages()) {
    Message message{call.body[at] != 0, raw.size(), raw};
    at += 5 + raw.size();
    if (message.compressed) {
      const auto* const data = reinterpret_cast<const std::byte*>(raw.data());
      const auto inflated = codec::inflate(gzip ? codec::Coding::kGzip : codec::Coding::kDeflate,
                                           {data, raw.size()}, std::size_t{1} << 30, pool);
      REQUIRE(inflated.has_value());
      message.content.assign(reinterpret_cast<const char*>(inflated->owner.data()), inflated->size);
    }
    messages.push_back(std::move(message));
  }
  return messages;
}

class Link {
 public:
  explicit Link(int level) : engine_(options(level)) {
    serve(engine_, unary_signature(DType::kFp32), doubling(engine_.pool()),
          with(Execution::kInline));
    wire_.emplace(engine_);
  }
  // Until both are silent.
  void run() {
    for (bool busy = true; busy;) {
      const std::string up = client.drink();
      wire_->send(up);
      engine_.tick();
      const std::string down = wire_->take();
      client.feed(down);
      busy = !up.empty() || !down.empty();
    }
  }
  h2::ClientCall& unary(std::string_view path, std::string_view accepted,
                        std::string_view message) {
    const std::int32_t id = client.open(head(path, accepted));
    client.send(id, h2::with_prefix(message));
    client.half_close(id);
    run();
    return client.calls.at(id);
  }
  Connection& connection() { return wire_->connection(); }

  h2::Client client;

 private:
  static EngineOptions options(int level) {
    EngineOptions made;
    made.grpc_compression_level = level;
    return made;
  }
  Engine engine_;
  std::optional<Wired> wire_;
};

TEST_CASE("grpc answers are not compressed unless that was asked for") {
  Link link(0);
  const h2::ClientCall& call = link.unary(kInfer, "identity, deflate, gzip", infer_message(1000));
  CHECK(call.status() == "0");
  CHECK(h2::field_of(call.headers, "grpc-encoding").empty());
  CHECK_FALSE(messages_of(call).at(0).compressed);
}

TEST_CASE("grpc answers are compressed as the client accepts it") {
  Link plain(0);
  const std::string expected =
      messages_of(plain.unary(kInfer, "identity", infer_message(1000))).at(0).content;
  std::size_t before = expected.size();
  for (const int level : {1, 6, 9}) {
    Link link(level);
    for (const auto& [accepted, encoding] :
         {std::pair("identity, deflate, gzip", "gzip"), std::pair("gzip", "gzip"),
          std::pair("identity,deflate", "deflate"), std::pair("identity", ""),
          std::pair("br, zstd", "")}) {
      CAPTURE(accepted);
      const h2::ClientCall& call = link.unary(kInfer, accepted, infer_message(1000));
      CHECK(call.status() == "0");
      CHECK(h2::field_of(call.headers, "grpc-encoding") == encoding);
      const auto messages = messages_of(call);
      REQUIRE(messages.size() == 1);
      CHECK(messages[0].compressed == !std::string_view(encoding).empty());
      CHECK(messages[0].content == expected);
      if (messages[0].compressed) CHECK(messages[0].bytes < expected.size() / 10);
    }
    // A higher level does not take more room.
    const std::size_t bytes =
        messages_of(link.unary(kInfer, "gzip", infer_message(1000))).at(0).bytes;
    CHECK(bytes <= before);
    before = bytes;
  }
}

TEST_CASE("grpc answers that are small, or would not get smaller, stay as they are") {
  Link link(1);
  const auto compressed = [&](const std::string& message) {
    return messages_of(link.unary(kInfer, "gzip", message)).at(0).compressed;
  };
  CHECK_FALSE(compressed(infer_message(1)));
  CHECK_FALSE(compressed(infer_message(50)));  // 800 bytes of values
  CHECK(compressed(infer_message(64)));
  // Floats without any pattern.
  constexpr std::size_t kRows = 1000;
  std::mt19937 random(1);
  std::string message = infer_message(kRows);
  for (std::size_t at = message.size() - kRows * 16; at < message.size(); ++at) {
    message[at] = static_cast<char>(random());
  }
  const auto kept = messages_of(link.unary(kInfer, "gzip", message)).at(0);
  CHECK_FALSE(kept.compressed);
  CHECK(kept.content.size() > kRows * 16);
}

TEST_CASE("streams and control calls are compressed message by message") {
  Link link(1);
  const std::int32_t stream = link.client.open(head(kStreamInfer, "gzip"));
  for (const std::size_t rows : {1, 1000, 2, 2000}) {
    link.client.send(stream, h2::with_prefix(infer_message(rows)));
  }
  link.client.half_close(stream);
  link.run();
  const h2::ClientCall& answered = link.client.calls.at(stream);
  CHECK(answered.status() == "0");
  CHECK(h2::field_of(answered.headers, "grpc-encoding") == "gzip");
  std::vector<bool> compressed;
  for (const Message& message : messages_of(answered)) compressed.push_back(message.compressed);
  CHECK(compressed == std::vector<bool>{false, true, false, true});

  const std::int32_t watch = link.client.open(head(kControl, "deflate"));
  link.client.send(watch, h2::with_prefix("q"));
  link.run();
  const auto calls = link.connection().take_calls();
  REQUIRE(calls.size() == 2);
  const std::string text(100'000, 'a');
  link.connection().reply_message(calls[0].exchange, "small");
  link.connection().reply_message(calls[0].exchange, text);
  link.connection().reply_end(calls[0].exchange, {});
  link.run();
  const auto messages = messages_of(link.client.calls.at(watch));
  REQUIRE(messages.size() == 2);
  CHECK_FALSE(messages[0].compressed);
  CHECK(messages[0].content == "small");
  CHECK(messages[1].compressed);
  CHECK(messages[1].content == text);
  CHECK(link.client.calls.at(watch).status() == "0");
}

}  // namespace
}  // namespace servolley::engine
