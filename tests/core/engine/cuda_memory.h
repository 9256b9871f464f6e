#pragma once

// A client's memory on a GPU that is not there, and models beside it.

#include <optional>
#include <string>
#include <vector>

#include "client.h"
#include "device/cuda_exporter.h"
#include "lanes.h"

namespace servolley::engine {

using servolley::testing::Exporter;
using servolley::testing::Standin;

inline constexpr std::size_t kBytes = 4096;
inline constexpr DeviceId kGpu{DeviceKind::kCuda, 0};

inline EngineOptions with_standin() {
  EngineOptions options;
  options.cuda_library = Standin::path();
  options.shared_memory = {.regions = 8, .bytes = 1 << 20};
  return options;
}

// What a model on the GPU was launched with last.
struct Launched {
  std::vector<InputPart> parts;
  std::vector<OutputPart> targets;
};

// One lane on the GPU, for a model that adds one to every byte.
class InPlaceLanes final : public LaneExecutor {
 public:
  InPlaceLanes(FakeDevice& device, Standin& standin, Launched& seen)
      : device_(device), standin_(standin), seen_(seen) {}
  int lanes() const override { return 1; }
  bool broken() const override { return false; }
  Status launch(int, const LaunchedBatch& batch) override {
    seen_.parts.assign(batch.parts.begin(), batch.parts.end());
    seen_.targets.assign(batch.targets.begin(), batch.targets.end());
    view_ = batch.outline(0);
    bytes_.clear();
    for (const InputPart& part : batch.parts) {
      auto* const data = const_cast<std::byte*>(part.view.data);
      const std::byte* const from = standin_.host_address(data);  // pinned pages are guarded, too
      bytes_.insert(bytes_.end(), from, from + part.view.bytes);
    }
    return device_.launch(batch.rows);  // last: who waits for it looks at what it was launched with
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
    std::size_t at = 0;
    for (std::size_t i = 0; i < seen_.targets.size(); ++i) {
      const OutputPart& target = seen_.targets[i];
      const std::size_t bytes = seen_.parts[i].view.bytes;
      outputs[0].delivered.push_back(target.data && bytes <= target.capacity);
      if (outputs[0].delivered.back()) {
        std::memcpy(standin_.host_address(target.data), outputs[0].view.data + at, bytes);
      }
      at += bytes;
    }
    if (!seen_.targets.empty() &&
        outputs[0].delivered == std::vector<bool>(seen_.targets.size(), true)) {
      outputs[0].view.data = nullptr;
      outputs[0].owner.reset();
    }
    return {};
  }

 private:
  FakeDevice& device_;
  Standin& standin_;
  Launched& seen_;
  TensorView view_;
  std::vector<std::byte> bytes_;
};

class InPlaceRunner final : public Runner {
 public:
  InPlaceRunner(FakeDevice& device, Standin& standin, Launched& seen, DeviceId id)
      : device_(device), standin_(standin), seen_(seen), id_(id) {}
  const Signature& signature() const override { return signature_; }
  std::string_view platform() const override { return "fake"; }
  std::span<const DeviceId> devices() const override { return {&id_, 1}; }
  bool takes_device_memory() const override { return true; }
  bool gives_device_memory() const override { return true; }
  Result<std::unique_ptr<Executor>> create_executor() override {
    return internal_error("runs on devices only");
  }
  Result<std::unique_ptr<LaneExecutor>> create_lanes(std::size_t, const LaneOptions&) override {
    return std::unique_ptr<LaneExecutor>(std::make_unique<InPlaceLanes>(device_, standin_, seen_));
  }

 private:
  FakeDevice& device_;
  Standin& standin_;
  Launched& seen_;
  const DeviceId id_;
  const Signature signature_ = unary_signature(DType::kUint8, {-1, -1});
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
  void serve_on_cpu(Execution execution = Execution::kInline) {
    serve(
        engine, unary_signature(DType::kUint8, {-1, -1}),
        [this](auto inputs, auto, auto outputs) {
          return copy_through(engine.pool(), inputs, outputs);
        },
        with(execution), "cpu");
  }
  void serve_on_gpu(DeviceId id = kGpu) {
    auto runner = std::make_shared<InPlaceRunner>(device, standin, seen, id);
    auto made = engine.create_servable("gpu", 1, runner, with_lanes(1));
    REQUIRE(made.has_value());
    servable = *made;
    ModelRoutes routes;
    routes.versions[1] = routes.default_version = servable;
    engine.set_routes("gpu", routes);
  }

  static std::string part(std::uint64_t bytes, std::uint64_t offset) {
    return R"({"shared_memory_region":"r","shared_memory_byte_size":)" + std::to_string(bytes) +
           R"(,"shared_memory_offset":)" + std::to_string(offset) + "}";
  }
  // One row of four out of the region, and the answer into it at 512.
  void send(const std::string& model, std::uint64_t offset, std::uint64_t room = 4) {
    send(*client, model, part(4, offset), R"({"name":"y","parameters":)" + part(room, 512) + "}");
  }
  void send(Client& from, const std::string& model, const std::string& input,
            const std::string& outputs) {
    from.send(post("/v2/models/" + model + "/infer",
                   R"({"inputs":[{"name":"x","datatype":"UINT8","shape":[1,4],"parameters":)" +
                       input + R"(}],"outputs":[)" + outputs + "]}"));
    engine.tick();
  }
  Answer answer(Client& of) {
    Answer found;
    REQUIRE(pump(engine, [&] { return of.read(found); }));
    return found;
  }
  Answer answer() { return answer(*client); }
  // How often somebody waited for the GPU; only of other threads than this one, if there were any.
  int waits_elsewhere() {
    int waits = 0;
    for (const auto& record : standin.log()) {
      const std::string what = record.what;
      if (what != "cuStreamSynchronize" && what != "cuEventSynchronize" &&
          what != "pageable_copy") {
        continue;
      }
      CHECK(record.thread != ::gettid());
      if (record.phase == kStandinBegin) ++waits;
    }
    return waits;
  }
  // A byte of the region, as its client finds it.
  int at(std::size_t offset) {
    return std::to_integer<int>(
        *(standin.host_address((*engine.regions().find("r"))->device_data()) + offset));
  }

  Standin standin;
  Exporter exporter{Standin::path(), kBytes, 7};
  Launched seen;
  Engine engine{with_standin()};
  FakeDevice device{engine.pool(), {}};
  std::shared_ptr<Servable> servable;  // on the GPU
  std::optional<Client> client;
};

}  // namespace servolley::engine
