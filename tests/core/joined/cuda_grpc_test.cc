// The whole way of a request on a GPU that is not there: gRPC, the engine's lanes, ONNX Runtime's
// numbers on the stand-in driver, tensors in memory that another process has exported.

#include <doctest/doctest.h>

#include "device/cuda_exporter.h"
#include "engine/grpc_harness.h"
#include "runtime/cuda_table.h"

namespace servolley::engine {
namespace {

using servolley::testing::Exporter;
using servolley::testing::Standin;

constexpr std::size_t kBytes = 4096;
constexpr std::size_t kRowBytes = 16;

EngineOptions with_standin() {
  EngineOptions options;
  options.cuda_library = Standin::path();
  options.shared_memory = {.regions = 8, .bytes = 1 << 20};
  return options;
}

// An entry of an InferParameter map in field `number`.
std::string parameter(std::uint32_t number, std::string_view key, const std::string& value) {
  return proto_field(number, proto_field(1, key) + proto_field(2, value));
}

std::string part(std::uint32_t number, std::string_view region, std::uint64_t bytes,
                 std::uint64_t offset) {
  const auto integer = [](std::uint64_t value) { return "\x10" + proto_varint(value); };
  return parameter(number, "shared_memory_region", proto_field(3, region)) +
         parameter(number, "shared_memory_byte_size", integer(bytes)) +
         parameter(number, "shared_memory_offset", integer(offset));
}

// One FP32 row of four, from the client's memory or with `data`.
std::string request(const std::string& input, const std::string& output,
                    std::string_view data = {}) {
  std::string message = proto_field(1, "m") +
                        proto_field(5, proto_field(1, "INPUT0") + proto_field(2, "FP32") +
                                           proto_field(3, std::string("\1\4")) + input) +
                        proto_field(6, proto_field(1, "OUTPUT0") + output);
  if (!data.empty()) message += proto_field(7, data);
  return message;
}

struct Setup {
  explicit Setup(int lanes = 2, bool graphs = false) {
    auto memory = engine.open_cuda_memory(0, exporter.handle, kBytes);
    REQUIRE(memory);
    REQUIRE(engine.regions().add_cuda("r", kBytes, std::move(*memory)).ok());
    auto gpu = engine.gpus().use(0);
    REQUIRE(gpu);
    table.device_memory = (*gpu)->memory.get();
    ort::OrtOptions options;
    options.gpus = {{.device = (*gpu)->device, .memory = (*gpu)->memory.get()}};
    options.cuda_graphs = graphs;
    options.intra_op_threads = 1;
    options.pool = &engine.pool();
    auto runner =
        ort::load_model(table.library(), ort::testing::model_path("identity_fp32"), options);
    REQUIRE(runner);
    ServableOptions serving;
    serving.lanes = lanes;
    serving.warmup = graphs;
    serving.max_batch_size = 4;
    auto made = engine.create_servable("m", 1, std::move(*runner), serving);
    REQUIRE_MESSAGE(made.has_value(), std::string(made ? "" : made.error().message()));
    servable = std::move(*made);
    ModelRoutes routes;
    routes.versions[1] = routes.default_version = servable;
    engine.set_routes("m", routes);
    standin.clear_log();
  }
  ~Setup() {
    engine.remove_routes("m");
    servable->close();
    CHECK(standin.misuse() == "");
    CHECK(table.failed == 0);
    CHECK(engine.pool().stats().in_use_bytes == 0);
  }
  Setup(const Setup&) = delete;
  Setup& operator=(const Setup&) = delete;

  std::byte* memory() { return standin.host_address((*engine.regions().find("r"))->device_data()); }
  std::string status(GrpcClient& client, std::int32_t call) {
    std::string found;
    REQUIRE(pump(engine, [&] { return !(found = client.status(call)).empty(); }));
    return found;
  }

  Standin standin;
  Exporter exporter{Standin::path(), kBytes, 7};
  Engine engine{with_standin()};
  ort::testing::CudaTable table{standin};
  std::shared_ptr<Servable> servable;
};

TEST_CASE("between two places of a client's memory on the GPU nothing is copied") {
  Setup setup;
  GrpcClient client(setup.engine);
  std::memset(setup.memory() + 512, 0, 512);
  const std::int32_t call =
      client.begin(kInferPath, request(part(4, "r", kRowBytes, 0), part(2, "r", kRowBytes, 512)));
  REQUIRE(setup.status(client, call) == "0");
  CHECK(client.answers(call)[0].find("shared_memory_region") != std::string::npos);
  CHECK(std::memcmp(setup.memory() + 512, setup.memory(), kRowBytes) == 0);
  CHECK(setup.memory()[512] == std::byte{7});
  CHECK(setup.memory()[512 + kRowBytes] == std::byte{0});
  CHECK(setup.standin.count("kernel") == 1);
  for (const char* copy : {"copy_to_host", "copy_to_device", "copy_on_device", "pageable_copy"}) {
    CHECK(setup.standin.count(copy) == 0);
  }
}

TEST_CASE("clients of both kinds share a batch: each finds its row where it wants it") {
  Setup setup(1);
  GrpcClient client(setup.engine);
  setup.standin.hold("kernel");
  const auto first = client.begin(kInferPath, request("", "", row_bytes(1)));
  client.exchange();
  REQUIRE(setup.standin.begun("copy_to_device"));
  const auto there =
      client.begin(kInferPath, request("", part(2, "r", kRowBytes, 512), row_bytes(2)));
  const auto back = client.begin(kInferPath, request("", "", row_bytes(3)));
  const auto small =
      client.begin(kInferPath, request("", part(2, "r", kRowBytes - 1, 1024), row_bytes(4)));
  const auto from = client.begin(kInferPath, request(part(4, "r", kRowBytes, 0), ""));
  client.exchange();
  CHECK(setup.servable->waiting() == 4);
  setup.standin.release("kernel");
  for (const auto call : {first, there, back, from}) CHECK(setup.status(client, call) == "0");
  CHECK(setup.status(client, small) == "3");
  CHECK(setup.servable->stats().executions == 2);
  CHECK(std::memcmp(setup.memory() + 512, row_bytes(2).data(), kRowBytes) == 0);
  CHECK(setup.memory()[1024] == std::byte{7});
  CHECK(client.answers(back)[0].find(row_bytes(3)) != std::string::npos);
  CHECK(client.answers(from)[0].find(std::string(kRowBytes, '\7')) != std::string::npos);
  CHECK(client.answers(there)[0].find(row_bytes(2)) == std::string::npos);
}

TEST_CASE("a region that is unregistered under way, and graphs that a first request settles") {
  Setup setup(2, true);
  CHECK(setup.servable->graphs() == GraphUse::kNotYet);  // zeros have guessed the shape
  GrpcClient client(setup.engine);
  setup.standin.hold("kernel");
  const auto call = client.begin(kInferPath, request("", part(2, "r", kRowBytes, 0), row_bytes(2)));
  client.exchange();
  REQUIRE(setup.standin.begun("copy_to_device"));
  setup.engine.regions().remove_all(DeviceKind::kCuda);
  CHECK(setup.standin.alive("mappings") == 1);
  setup.standin.release("kernel");
  REQUIRE(setup.status(client, call) == "0");
  CHECK(setup.standin.alive("mappings") == 0);
  CHECK(setup.standin.count("copy_on_device") == 1);  // out of the graph's own memory
  CHECK(setup.exporter.end() == 0);                   // what it finds: of 2.0F the first byte
  CHECK(setup.servable->graphs() == GraphUse::kOn);
  const auto gone = client.begin(kInferPath, request(part(4, "r", kRowBytes, 0), ""));
  CHECK(setup.status(client, gone) == "5");
}

}  // namespace
}  // namespace servolley::engine
