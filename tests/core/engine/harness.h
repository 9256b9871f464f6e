#pragma once

#include <doctest/doctest.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "engine/engine.h"

namespace servolley::engine {

// What a fake model does with one batch.
using Body = std::function<Status(std::span<const TensorView> inputs, std::int64_t rows,
                                  std::span<OutputTensor> outputs)>;

class FakeExecutor final : public Executor {
 public:
  explicit FakeExecutor(Body body) : body_(std::move(body)) {}
  Status run(std::span<const TensorView> inputs, std::int64_t rows,
             std::span<OutputTensor> outputs) override {
    return body_(inputs, rows, outputs);
  }

 private:
  Body body_;
};

class FakeRunner final : public Runner {
 public:
  FakeRunner(Signature signature, Body body)
      : signature_(std::move(signature)), body_(std::move(body)) {}
  const Signature& signature() const override { return signature_; }
  std::string_view platform() const override { return "fake"; }
  Result<std::unique_ptr<Executor>> create_executor() override {
    return std::unique_ptr<Executor>(std::make_unique<FakeExecutor>(body_));
  }

 private:
  Signature signature_;
  Body body_;
};

inline Signature unary_signature(DType dtype, Shape shape = {-1, 4}) {
  Signature signature;
  signature.inputs.push_back(
      {.name = "x", .dtype = dtype, .shape = shape, .dim_names = {}, .labels = {}});
  signature.outputs.push_back(
      {.name = "y", .dtype = dtype, .shape = shape, .dim_names = {}, .labels = {}});
  return signature;
}

// y = x, copied into pooled memory.
inline Status copy_through(Pool& pool, std::span<const TensorView> inputs,
                           std::span<OutputTensor> outputs) {
  auto buffer = pool.allocate(inputs[0].bytes);
  if (!buffer) return buffer.error();
  if (inputs[0].bytes) std::memcpy(buffer->data(), inputs[0].data, inputs[0].bytes);
  outputs[0].view = inputs[0];
  outputs[0].view.data = buffer->data();
  outputs[0].owner = std::move(*buffer);
  return {};
}

// y = 2x for FP32; a row whose first value is -1 fails its whole run.
inline Body doubling(Pool& pool) {
  return
      [&pool](std::span<const TensorView> inputs, std::int64_t, std::span<OutputTensor> outputs) {
        SERVOLLEY_TRY(copy_through(pool, inputs, outputs));
        auto* values = reinterpret_cast<float*>(outputs[0].owner.data());
        const std::size_t count = inputs[0].bytes / sizeof(float);
        for (std::size_t i = 0; i < count; ++i) {
          if (i % 4 == 0 && values[i] == -1.0F) return internal_error("poisoned row");
          values[i] *= 2;
        }
        return Status();
      };
}

struct Answer {
  int status = 0;
  std::string head;
  std::string body;
};

// The client's end of a connection to the engine.
class Client {
 public:
  explicit Client(Engine& engine, bool control_only = false)
      : connection_(std::make_shared<Connection>(engine, control_only)) {
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends_) == 0);
    connection_->opened(ends_[0]);
  }
  ~Client() {
    hang_up();
    ::close(ends_[1]);
  }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Hands bytes to the connection as the transport would.
  std::uint32_t send(std::string_view bytes) {
    std::uint32_t bits = 0;
    while (!bytes.empty()) {
      const auto space = connection_->receive_space();
      const std::size_t n = std::min(space.size(), bytes.size());
      std::memcpy(space.data(), bytes.data(), n);
      bits |= connection_->received(n);
      bytes.remove_prefix(n);
    }
    return bits;
  }

  // One answer, if it is there.
  bool read(Answer& answer) {
    char chunk[4096];
    for (ssize_t n = 0; (n = ::recv(ends_[1], chunk, sizeof chunk, 0)) > 0;) {
      pending_.append(chunk, static_cast<std::size_t>(n));
    }
    const std::size_t end = pending_.find("\r\n\r\n");
    if (end == std::string::npos) return false;
    const std::string head = pending_.substr(0, end + 2);
    const std::size_t at = head.find("ontent-Length: ");
    REQUIRE(at != std::string::npos);
    const std::size_t length = std::stoul(head.substr(head.find("\r\nContent-Length: ") + 18));
    if (pending_.size() < end + 4 + length) return false;
    answer.status = std::stoi(head.substr(9, 3));
    answer.head = head;
    answer.body = pending_.substr(end + 4, length);
    pending_.erase(0, end + 4 + length);
    return true;
  }

  void hang_up() {
    if (ends_[0] < 0) return;
    connection_->closed();
    ::close(ends_[0]);
    ends_[0] = -1;
  }
  Connection& connection() { return *connection_; }
  int peer() const { return ends_[1]; }

 private:
  std::shared_ptr<Connection> connection_;
  int ends_[2] = {-1, -1};
  std::string pending_;
};

inline std::string post(const std::string& target, const std::string& body,
                        const std::string& extra = "") {
  return "POST " + target + " HTTP/1.1\r\nHost: test\r\n" + extra +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

// A binary request for one FP32 row of four: {value, 1, 2, 3}.
inline std::string infer_row(float value, const std::string& model = "m", int rows = 1) {
  const std::string bytes = std::to_string(rows * 16);
  const std::string json = R"({"inputs":[{"name":"x","shape":[)" + std::to_string(rows) +
                           R"(,4],"datatype":"FP32","parameters":{"binary_data_size":)" + bytes +
                           R"(}}],"parameters":{"binary_data_output":true}})";
  std::string body = json;
  for (int r = 0; r < rows; ++r) {
    const float row[4] = {value, 1, 2, 3};
    body.append(reinterpret_cast<const char*>(row), sizeof row);
  }
  return post("/v2/models/" + model + "/infer", body,
              "Inference-Header-Content-Length: " + std::to_string(json.size()) + "\r\n");
}

inline float first_value(const Answer& answer) {
  float value = 0;
  REQUIRE(answer.body.size() >= 16);
  std::memcpy(&value, answer.body.data() + answer.body.size() - 16, sizeof value);
  return value;
}

// Waits for finished batches as the event loop would, at most five seconds.
inline bool pump(Engine& engine, const std::function<bool()>& done) {
  const TimePoint stop = Clock::now() + std::chrono::seconds(5);
  while (!done()) {
    if (Clock::now() > stop) return false;
    pollfd ready{.fd = engine.completion_fd(), .events = POLLIN, .revents = 0};
    ::poll(&ready, 1, 20);
    if (ready.revents) engine.drain_completions();
    engine.tick();
    engine.expire(Clock::now());
  }
  return true;
}

// Holds a model inside its run until it is opened.
class Gate {
 public:
  void wait() {
    std::unique_lock lock(mutex_);
    ++entered_;
    changed_.notify_all();
    changed_.wait(lock, [this] { return open_; });
  }
  void await_entered(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return entered_ >= count; });
  }
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    changed_.notify_all();
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool open_ = false;
  int entered_ = 0;
};

inline std::shared_ptr<Servable> serve(Engine& engine, Signature signature, Body body,
                                       ServableOptions options = {},
                                       const std::string& name = "m") {
  auto runner = std::make_shared<FakeRunner>(std::move(signature), std::move(body));
  auto servable = engine.create_servable(name, 1, runner, std::move(options));
  REQUIRE(servable.has_value());
  ModelRoutes routes;
  routes.versions[1] = *servable;
  routes.default_version = *servable;
  engine.set_routes(name, routes);
  return *servable;
}

inline ServableOptions with(Execution execution, bool warmup = false) {
  ServableOptions options;
  options.execution = execution;
  options.warmup = warmup;
  return options;
}

}  // namespace servolley::engine
