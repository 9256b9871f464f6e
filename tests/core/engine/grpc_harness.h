#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "harness.h"
#include "net/http2_link.h"

namespace servolley::engine {

inline constexpr std::string_view kInferPath = "/inference.GRPCInferenceService/ModelInfer";
inline constexpr std::string_view kStreamPath = "/inference.GRPCInferenceService/ModelStreamInfer";
inline constexpr std::string_view kPredictPath = "/tensorflow.serving.PredictionService/Predict";

// The client's end of an HTTP/2 connection to the engine.
class GrpcClient : public net::http2_test::Client {
 public:
  explicit GrpcClient(Engine& engine, bool control_only = false) : wire(engine, control_only) {}

  static net::http2_test::Fields head(std::string_view path, std::string_view timeout = {}) {
    auto fields = net::http2_test::Client::head(path);
    if (!timeout.empty()) fields.emplace_back("grpc-timeout", std::string(timeout));
    return fields;
  }
  std::int32_t begin(std::string_view path, std::string_view message,
                     std::string_view timeout = {}) {
    const std::int32_t id = open(head(path, timeout));
    say(id, message);
    half_close(id);
    return id;
  }
  void say(std::int32_t id, std::string_view message) {
    send(id, net::http2_test::with_prefix(message));
  }

  // Until both are silent; the bits of what the engine asks for.
  std::uint32_t exchange() {
    std::uint32_t bits = 0;
    for (bool busy = true; busy;) {
      const std::string up = drink();
      if (!up.empty()) bits |= wire.send(up);
      std::string down;
      char chunk[4096];
      for (ssize_t n = 0; (n = ::recv(wire.peer(), chunk, sizeof chunk, 0)) > 0;) {
        down.append(chunk, static_cast<std::size_t>(n));
      }
      feed(down);
      busy = !up.empty() || !down.empty();
    }
    return bits;
  }
  // The call's grpc-status; empty while it is open.
  std::string status(std::int32_t id) {
    exchange();
    return calls[id].closed ? calls[id].status() : std::string();
  }
  std::vector<std::string> answers(std::int32_t id) {
    exchange();
    return calls[id].messages();
  }

  engine::Client wire;
};

// --- messages, field by field

inline std::string proto_varint(std::uint64_t value) {
  std::string out;
  for (; value >= 128; value >>= 7) out.push_back(static_cast<char>(value % 128 + 128));
  out.push_back(static_cast<char>(value));
  return out;
}

inline std::string proto_field(std::uint32_t number, std::string_view bytes) {
  return proto_varint(number << 3 | 2u) + proto_varint(bytes.size()) + std::string(bytes);
}

inline std::string row_bytes(float value) {
  const float row[4] = {value, 1, 2, 3};
  return {reinterpret_cast<const char*>(row), sizeof row};
}

// A ModelInferRequest for one FP32 row of four: {value, 1, 2, 3}.
inline std::string infer_message(float value, std::string_view model = "m",
                                 std::string_view id = "", std::string_view data = {}) {
  const std::string input =
      proto_field(1, "x") + proto_field(2, "FP32") + proto_field(3, std::string("\1\4"));
  return proto_field(1, model) + (id.empty() ? "" : proto_field(3, id)) + proto_field(5, input) +
         proto_field(7, data.empty() ? row_bytes(value) : std::string(data));
}

// The same as a PredictRequest.
inline std::string predict_message(float value, std::string_view model = "m") {
  const std::string shape = proto_field(2, "\x08\1") + proto_field(2, "\x08\4");
  const std::string tensor =
      std::string("\x08\1") + proto_field(2, shape) + proto_field(4, row_bytes(value));
  return proto_field(1, proto_field(1, model)) +
         proto_field(2, proto_field(1, "x") + proto_field(2, tensor));
}

// Whether an answer has this row among its bytes, doubled as the model does.
inline bool has_doubled(std::string_view answer, float value) {
  const float row[4] = {value * 2, 2, 4, 6};
  return answer.find({reinterpret_cast<const char*>(row), sizeof row}) != std::string_view::npos;
}

inline std::uint64_t failures(Servable& servable, FailureReason reason) {
  return servable.stats().failures[static_cast<std::size_t>(reason)];
}

// A model that doubles once its gate is open, one run of one request at a time.
struct Gated {
  explicit Gated(Engine& engine, const std::string& name = "m") {
    Body doubled = doubling(engine.pool());
    Signature signature = unary_signature(DType::kFp32, {1, 4});
    servable = serve(
        engine, std::move(signature),
        [this, doubled](auto inputs, auto rows, auto outputs) {
          gate.wait();
          ++runs;
          return doubled(inputs, rows, outputs);
        },
        with(Execution::kThreads), name);
  }
  ~Gated() { gate.open(); }
  Gated(const Gated&) = delete;
  Gated& operator=(const Gated&) = delete;

  Gate gate;
  std::atomic<int> runs{0};
  std::shared_ptr<Servable> servable;
};

}  // namespace servolley::engine
