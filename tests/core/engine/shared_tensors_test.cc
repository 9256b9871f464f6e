// Tensors in clients' shared memory, from their regions into the model and back.

#include "grpc_harness.h"
#include "shm/objects.h"

namespace servolley::engine {
namespace {

using shm::testing::Object;

constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kLargest = ~std::uint64_t{0};

EngineOptions shared(std::size_t decoded_bytes = EngineOptions().decoded_bytes) {
  EngineOptions options;
  options.decoded_bytes = decoded_bytes;
  options.shared_memory = {.regions = 4, .bytes = 1 << 20};
  return options;
}

// The parameters that name a part.
std::string part(std::uint64_t bytes, std::uint64_t offset = 0, const std::string& region = "r") {
  return R"({"shared_memory_region":")" + region + R"(","shared_memory_byte_size":)" +
         std::to_string(bytes) + R"(,"shared_memory_offset":)" + std::to_string(offset) + "}";
}

std::string floats(std::initializer_list<float> values) {
  return {reinterpret_cast<const char*>(values.begin()), values.size() * sizeof(float)};
}

// An engine with a model that doubles and a client that has registered one page as "r".
struct Setup {
  explicit Setup(const EngineOptions& options = shared(),
                 Signature signature = unary_signature(DType::kFp32, {-1, 4}))
      : engine(options) {
    const bool doubles = signature.inputs[0].dtype == DType::kFp32;
    serve(engine, std::move(signature),
          doubles ? doubling(engine.pool()) : Body([this](auto inputs, auto, auto outputs) {
            return copy_through(engine.pool(), inputs, outputs);
          }),
          with(Execution::kInline));
    REQUIRE(engine.regions().add("r", object.key(), 0, kPage).ok());
    client.emplace(engine);
  }

  Answer ask(const std::string& json) {
    client->send(post("/v2/models/m/infer", json));
    engine.tick();
    Answer answer;
    REQUIRE(client->read(answer));
    return answer;
  }
  Answer input(const std::string& shape, const std::string& parameters,
               const std::string& dtype = "FP32", const std::string& more = "") {
    return ask(R"({"inputs":[{"name":"x","datatype":")" + dtype + R"(","shape":)" + shape +
               R"(,"parameters":)" + parameters + "}]" + more + "}");
  }
  Answer output(const std::string& parameters) {
    return ask(R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}],)"
               R"("outputs":[{"name":"y","parameters":)" +
               parameters + "}]}");
  }

  Object object{kPage};
  Engine engine;
  std::optional<Client> client;
};

TEST_CASE("an input comes out of its region, and an output goes into one") {
  Setup setup;
  setup.object.put(100, floats({1, 2, 3, 4}));
  const Answer answer =
      setup.input("[1,4]", part(16, 100), "FP32",
                  R"(,"outputs":[{"name":"y","parameters":)" + part(32, 512) + "}]");
  REQUIRE(answer.status == 200);
  CHECK(answer.body ==
        R"({"model_name":"m","model_version":"1","outputs":[{"name":"y","datatype":"FP32",)"
        R"("shape":[1,4],"parameters":{"shared_memory_region":"r","shared_memory_offset":512,)"
        R"("shared_memory_byte_size":16}}]})");
  CHECK(setup.object.get(512, 20) == floats({2, 4, 6, 8, 0}));
}

TEST_CASE("the same over gRPC, one call and a stream") {
  Setup setup;
  GrpcClient client(setup.engine);
  setup.object.put(64, floats({1, 2, 3, 4}));
  const auto number = [](std::uint64_t value) { return "\x10" + proto_varint(value); };
  const auto parameters = [&](std::uint32_t field, std::uint64_t offset) {
    const auto entry = [&](std::string_view key, const std::string& value) {
      return proto_field(field, proto_field(1, key) + proto_field(2, value));
    };
    return entry("shared_memory_region", proto_field(3, "r")) +
           entry("shared_memory_byte_size", number(16)) +
           entry("shared_memory_offset", number(offset));
  };
  const std::string input = proto_field(1, "x") + proto_field(2, "FP32") +
                            proto_field(3, std::string("\1\4")) + parameters(4, 64);
  const std::string message = proto_field(1, "m") + proto_field(5, input) +
                              proto_field(6, proto_field(1, "y") + parameters(2, 1024));
  for (const std::string_view path : {kInferPath, kStreamPath}) {
    setup.object.put(1024, floats({0, 0, 0, 0}));
    const std::int32_t id = client.begin(path, message);
    client.exchange();
    setup.engine.tick();
    REQUIRE(client.status(id) == "0");
    REQUIRE(client.answers(id).size() == 1);
    CHECK(client.answers(id)[0].find("shared_memory_region") != std::string::npos);
    CHECK(setup.object.get(1024, 16) == floats({2, 4, 6, 8}));
  }
}

TEST_CASE("hostile parts are refused before memory is taken") {
  Setup setup;
  const std::uint64_t wrap = kLargest - 31;
  for (const auto& [bytes, offset] : std::vector<std::pair<std::uint64_t, std::uint64_t>>{
           {16, kPage},       // begins at the end
           {16, kPage - 12},  // reaches behind it
           {16, wrap},
           {wrap, 0},
           {wrap, wrap},  // whose sum wraps
       }) {
    CAPTURE(bytes);
    CAPTURE(offset);
    CHECK(setup.input("[1,4]", part(bytes, offset)).status == 400);
    CHECK(setup.output(part(bytes, offset)).status == 400);
  }
  // A shape that agrees with a size beyond all memory.
  CHECK(setup.input("[1152921504606846974,4]", part(wrap)).status == 400);
  CHECK(setup.input("[1,4]", part(16, 0, "s")).status == 404);
  CHECK(setup.output(part(16, 0, "s")).status == 404);
  CHECK(setup.input("[1,4]", part(16, 0, "")).status == 404);
  CHECK(setup.engine.pool().stats().high_water_bytes < kPage);
  CHECK(setup.engine.in_flight() == 0);
  CHECK(setup.input("[1,4]", part(16)).status == 200);
}

TEST_CASE("inputs in shared memory count as decoded bytes, together with the others") {
  Signature signature = unary_signature(DType::kUint8, {-1});
  signature.inputs.push_back(signature.inputs[0]);
  signature.inputs[1].name = "b";
  signature.outputs[0].shape = Shape{1};  // no batch
  Setup setup(shared(1000), signature);
  const auto ask = [&](std::size_t bytes) {
    const std::string size = std::to_string(bytes);
    return setup
        .ask(R"({"inputs":[{"name":"x","datatype":"UINT8","shape":[)" + size +
             R"(],"parameters":)" + part(bytes) +
             R"(},{"name":"b","datatype":"UINT8","shape":[3],"data":[1,2,3]}]})")
        .status;
  };
  CHECK(ask(997) == 200);
  CHECK(ask(998) == 413);
}

TEST_CASE("BYTES are checked when they are here") {
  Setup setup(shared(), unary_signature(DType::kBytes, {-1}));
  const std::string data("\1\0\0\0a\0\0\0\0", 9);
  setup.object.put(0, data);
  CHECK(setup.input("[2]", part(9), "BYTES").status == 200);
  CHECK(setup.input("[1]", part(9), "BYTES").status == 400);
  CHECK(setup.input("[3]", part(9), "BYTES").status == 400);
  setup.object.put(0, "\xff\xff\xff\x7f");
  CHECK(setup.input("[2]", part(9), "BYTES").status == 400);
}

TEST_CASE("an object that was shortened fails the request that reads or writes it") {
  Setup setup;
  setup.object.resize(16);
  CHECK(setup.input("[1,4]", part(16)).status == 200);
  CHECK(setup.input("[1,4]", part(16, 4)).status == 400);
  CHECK(setup.output(part(16)).status == 200);
  CHECK(setup.output(part(16, 4)).status == 400);
  CHECK(setup.engine.in_flight() == 0);
}

TEST_CASE("an output that is larger than its part is an error, and writes nothing") {
  Setup setup;
  const Answer answer = setup.output(part(15));
  CHECK(answer.status == 400);
  CHECK(answer.body.find("'y'") != std::string::npos);
  CHECK(setup.object.get(0, 16) == std::string(16, '\0'));
}

TEST_CASE("a request keeps the region of its output; the model reads a copy of its input") {
  Setup setup;
  Gated gated(setup.engine, "slow");
  setup.object.put(0, floats({1, 2, 3, 4}));
  setup.client->send(
      post("/v2/models/slow/infer",
           R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":)" + part(16) +
               R"(}],"outputs":[{"name":"y","parameters":)" + part(16, 64) + "}]}"));
  gated.gate.await_entered(1);
  setup.engine.regions().remove(DeviceKind::kCpu, "r");
  CHECK(setup.engine.regions().usage().regions == 1);
  setup.object.put(0, floats({9, 9, 9, 9}));
  gated.gate.open();
  Answer answer;
  REQUIRE(pump(setup.engine, [&] { return setup.client->read(answer); }));
  CHECK(answer.status == 200);
  CHECK(setup.object.get(64, 16) == floats({2, 4, 6, 8}));
  CHECK(setup.engine.regions().usage().regions == 0);
}

TEST_CASE("a client that goes, and a model that fails, let go of the region") {
  Setup setup;
  setup.object.put(0, floats({-1, 2, 3, 4}));
  CHECK(setup
            .input("[1,4]", part(16), "FP32",
                   R"(,"outputs":[{"name":"y","parameters":)" + part(16, 64) + "}]")
            .status == 500);
  Gated gated(setup.engine, "slow");
  setup.client->send(
      post("/v2/models/slow/infer",
           R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":)" + part(16) +
               R"(}],"outputs":[{"name":"y","parameters":)" + part(16, 64) + "}]}"));
  gated.gate.await_entered(1);
  setup.client->hang_up();
  gated.gate.open();
  REQUIRE(pump(setup.engine, [&] { return setup.engine.in_flight() == 0; }));
  setup.engine.regions().remove(DeviceKind::kCpu, "r");
  CHECK(setup.engine.regions().usage().regions == 0);
  CHECK(setup.object.get(64, 16) == std::string(16, '\0'));
}

TEST_CASE("without shared memory every use of it says so") {
  Engine engine({});
  serve(engine, unary_signature(DType::kFp32, {-1, 4}), doubling(engine.pool()),
        with(Execution::kInline));
  Client client(engine);
  client.send(post("/v2/models/m/infer",
                   R"({"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"parameters":)" +
                       part(16) + "}]}"));
  Answer answer;
  REQUIRE(client.read(answer));
  CHECK(answer.status == 501);
}

}  // namespace
}  // namespace servolley::engine
