// Tensors in clients' memory on a GPU: read where they lie by a model that runs there, copied by
// the driver for all others.

#include <vector>

#include "client.h"
#include "device/cuda_exporter.h"
#include "lanes.h"

namespace servolley::engine {
namespace {

using servolley::testing::Exporter;
using servolley::testing::Standin;

constexpr std::size_t kBytes = 4096;
constexpr DeviceId kGpu{DeviceKind::kCuda, 0};

EngineOptions with_standin() {
  EngineOptions options;
  options.cuda_library = Standin::path();
  options.shared_memory = {.regions = 8, .bytes = 1 << 20};
  return options;
}

// One lane on the GPU, for a model that adds one to every byte. Remembers what it was launched
// with.
class InPlaceLanes final : public LaneExecutor {
 public:
  InPlaceLanes(FakeDevice& device, Standin& standin, std::vector<InputPart>& seen)
      : device_(device), standin_(standin), seen_(seen) {}
  int lanes() const override { return 1; }
  bool broken() const override { return false; }
  Status launch(int, const LaunchedBatch& batch) override {
    SERVOLLEY_TRY(device_.launch(batch.rows));
    seen_.assign(batch.parts.begin(), batch.parts.end());
    view_ = batch.outline(0);
    bytes_.clear();
    for (const InputPart& part : batch.parts) {
      auto* const data = const_cast<std::byte*>(part.view.data);
      const std::byte* const from = part.on_device ? standin_.host_address(data) : data;
      bytes_.insert(bytes_.end(), from, from + part.view.bytes);
    }
    return {};
  }
  Status wait(int, std::span<OutputTensor> outputs) override {
    SERVOLLEY_TRY(device_.wait());
    auto buffer = device_.pool().allocate(bytes_.size());
    if (!buffer) return buffer.error();
    for (std::size_t i = 0; i < bytes_.size(); ++i) {
      buffer->data()[i] = static_cast<std::byte>(std::to_integer<int>(bytes_[i]) + 1);
    }
    outputs[0].view = view_;
    outputs[0].view.data = buffer->data();
    outputs[0].owner = std::move(*buffer);
    return {};
  }

 private:
  FakeDevice& device_;
  Standin& standin_;
  std::vector<InputPart>& seen_;
  TensorView view_;
  std::vector<std::byte> bytes_;
};

class InPlaceRunner final : public Runner {
 public:
  InPlaceRunner(FakeDevice& device, Standin& standin, std::vector<InputPart>& seen, DeviceId id)
      : device_(device), standin_(standin), seen_(seen), id_(id) {}
  const Signature& signature() const override { return signature_; }
  std::string_view platform() const override { return "fake"; }
  std::span<const DeviceId> devices() const override { return {&id_, 1}; }
  bool takes_device_memory() const override { return true; }
  Result<std::unique_ptr<Executor>> create_executor() override {
    return internal_error("runs on devices only");
  }
  Result<std::unique_ptr<LaneExecutor>> create_lanes(std::size_t, const LaneOptions&) override {
    return std::unique_ptr<LaneExecutor>(std::make_unique<InPlaceLanes>(device_, standin_, seen_));
  }

 private:
  FakeDevice& device_;
  Standin& standin_;
  std::vector<InputPart>& seen_;
  const DeviceId id_;
  const Signature signature_ = unary_signature(DType::kUint8);
};

// A client with memory on the GPU, which it has registered as "r", and models on both sides.
struct Setup {
  Setup() {
    REQUIRE(standin.configure("devices=2"));
    auto memory = engine.open_cuda_memory(0, exporter.handle, kBytes);
    REQUIRE(memory);
    REQUIRE(engine.regions().add_cuda("r", kBytes, std::move(*memory)).ok());
    client.emplace(engine);
  }
  void serve_on_cpu() {
    serve(
        engine, unary_signature(DType::kUint8),
        [this](auto inputs, auto, auto outputs) {
          return copy_through(engine.pool(), inputs, outputs);
        },
        with(Execution::kInline), "cpu");
  }
  void serve_on_gpu(DeviceId id = kGpu) {
    auto runner = std::make_shared<InPlaceRunner>(device, standin, seen, id);
    auto servable = engine.create_servable("gpu", 1, runner, with_lanes(1));
    REQUIRE(servable.has_value());
    ModelRoutes routes;
    routes.versions[1] = routes.default_version = *servable;
    engine.set_routes("gpu", routes);
  }

  static std::string part(std::uint64_t bytes, std::uint64_t offset) {
    return R"({"shared_memory_region":"r","shared_memory_byte_size":)" + std::to_string(bytes) +
           R"(,"shared_memory_offset":)" + std::to_string(offset) + "}";
  }
  // One row of four out of the region, and the answer into it at 512.
  void send(const std::string& model, std::uint64_t offset) {
    client->send(post("/v2/models/" + model + "/infer",
                      R"({"inputs":[{"name":"x","datatype":"UINT8","shape":[1,4],"parameters":)" +
                          part(4, offset) + R"(}],"outputs":[{"name":"y","parameters":)" +
                          part(4, 512) + "}]}"));
    engine.tick();
  }
  Answer answer() {
    Answer found;
    REQUIRE(pump(engine, [&] { return client->read(found); }));
    return found;
  }
  // A byte of the region, as its client finds it.
  int at(std::size_t offset) {
    return std::to_integer<int>(
        *(standin.host_address((*engine.regions().find("r"))->device_data()) + offset));
  }

  Standin standin;
  Exporter exporter{Standin::path(), kBytes, 7};
  std::vector<InputPart> seen;
  Engine engine{with_standin()};
  FakeDevice device{engine.pool(), {}};
  std::optional<Client> client;
};

TEST_CASE("for a model on the CPU the driver copies in and out") {
  Setup setup;
  setup.serve_on_cpu();
  const std::vector<std::byte> row{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  REQUIRE((*setup.engine.regions().find("r"))->write(100, row).ok());
  setup.send("cpu", 100);
  const Answer answer = setup.answer();
  REQUIRE(answer.status == 200);
  CHECK(answer.body.find(R"("shared_memory_region":"r","shared_memory_offset":512)") !=
        std::string::npos);
  for (int i = 0; i < 4; ++i) CHECK(setup.at(512 + static_cast<std::size_t>(i)) == i + 1);
  CHECK(setup.at(516) == 7);
  // Bounds are those of any region.
  setup.send("cpu", kBytes - 3);
  CHECK(setup.answer().status == 400);
}

TEST_CASE("a model on that GPU reads it where it lies") {
  Setup setup;
  setup.serve_on_gpu();
  setup.standin.clear_log();
  setup.send("gpu", 100);
  REQUIRE(setup.answer().status == 200);
  REQUIRE(setup.seen.size() == 1);
  CHECK(setup.seen[0].on_device);
  CHECK(setup.seen[0].view.data == (*setup.engine.regions().find("r"))->device_data() + 100);
  CHECK(setup.standin.count("cuMemcpyDtoHAsync_v2") == 0);
  CHECK(setup.at(512) == 8);
  CHECK(setup.engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("a model on another GPU gets a copy") {
  Setup setup;
  setup.serve_on_gpu({DeviceKind::kCuda, 1});
  setup.send("gpu", 100);
  REQUIRE(setup.answer().status == 200);
  REQUIRE(setup.seen.size() == 1);
  CHECK_FALSE(setup.seen[0].on_device);
  CHECK(setup.at(512) == 8);
}

TEST_CASE("a region stays mapped while a batch reads it, and until the answer is written") {
  Setup setup;
  setup.serve_on_gpu();
  setup.device.hold();
  setup.send("gpu", 0);
  REQUIRE(setup.device.await_launches(1).size() == 1);
  setup.engine.regions().remove_all(DeviceKind::kCuda);
  CHECK(setup.engine.regions().usage().regions == 1);
  CHECK(setup.standin.alive("mappings") == 1);
  setup.device.release();
  CHECK(setup.answer().status == 200);
  CHECK(setup.engine.regions().usage().regions == 0);
  CHECK(setup.standin.alive("mappings") == 0);
  setup.send("gpu", 0);
  CHECK(setup.answer().status == 404);
}

TEST_CASE("handles that are none, and devices that are not there") {
  Setup setup;
  std::vector<std::byte> random(64, std::byte{0x5a});
  CHECK(setup.engine.open_cuda_memory(0, random, 1).error().code() == Code::kInvalidArgument);
  for (const std::size_t size : {0, 63, 65}) {
    CHECK(setup.engine.open_cuda_memory(0, std::vector<std::byte>(size), 1).error().code() ==
          Code::kInvalidArgument);
  }
  for (const std::int64_t device : {std::int64_t{-1}, std::int64_t{1} << 40}) {
    CHECK(setup.engine.open_cuda_memory(device, setup.exporter.handle, 1).error().code() ==
          Code::kInvalidArgument);
  }
  CHECK(setup.engine.open_cuda_memory(999, setup.exporter.handle, 1).error().code() ==
        Code::kFailedPrecondition);
  CHECK(setup.engine.open_cuda_memory(0, setup.exporter.handle, kBytes + 1).error().code() ==
        Code::kInvalidArgument);
  // The context is as good as before.
  setup.serve_on_cpu();
  setup.send("cpu", 0);
  CHECK(setup.answer().status == 200);

  EngineOptions options;
  options.cuda_library = "libno_such_driver.so.1";
  Engine without(options);
  CHECK(without.open_cuda_memory(0, random, 1).error().code() == Code::kFailedPrecondition);
}

}  // namespace
}  // namespace servolley::engine
