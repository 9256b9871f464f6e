// Tensors in clients' system memory that a GPU copies from and to by itself. The stand-in ends
// whoever else touches the pages.

#include "cuda_memory.h"
#include "shm/objects.h"

namespace servolley::engine {
namespace {

using shm::testing::Object;

constexpr std::size_t kRow = 64 << 10;  // the least that is left to the GPU
constexpr std::size_t kOutput = 2 * kRow;
constexpr std::size_t kRegion = 4 * kRow;

struct Pinned : Setup {
  Pinned() {
    REQUIRE(standin.configure("devices=2,guard=1"));
    object.put(0, std::string(kRow, '\x03'));
    REQUIRE(engine.regions().add("s", object.key(), 0, kRegion).ok());
  }
  const shm::Region& region() { return **engine.regions().find("s"); }
  static std::string place(std::uint64_t bytes, std::uint64_t offset) {
    return R"({"shared_memory_region":"s","shared_memory_byte_size":)" + std::to_string(bytes) +
           R"(,"shared_memory_offset":)" + std::to_string(offset) + "}";
  }
  Answer ask(const std::string& model, std::size_t row = kRow, std::uint64_t room = kRow) {
    client->send(post("/v2/models/" + model + "/infer",
                      R"({"inputs":[{"name":"x","datatype":"UINT8","shape":[1,)" +
                          std::to_string(row) + R"(],"parameters":)" + place(row, 0) +
                          R"(}],"outputs":[{"name":"y","parameters":)" + place(room, kOutput) +
                          "}]}"));
    engine.tick();
    return answer();
  }
  std::string output(std::size_t bytes = kRow) { return object.get(kOutput, bytes); }

  Object object{kRegion};
};

TEST_CASE("a model on a GPU reads and writes pinned regions where they lie") {
  Pinned setup;
  setup.serve_on_gpu();
  CHECK(setup.engine.may_pin(setup.region()));
  REQUIRE(setup.engine.pin(setup.region()));
  CHECK(setup.ask("gpu").status == 200);
  REQUIRE(setup.seen.parts.size() == 1);
  CHECK(setup.seen.parts[0].pinned);
  CHECK_FALSE(setup.seen.parts[0].on_device);
  CHECK(setup.seen.parts[0].view.data == setup.region().pinned_data());
  REQUIRE(setup.seen.targets.size() == 1);
  CHECK(setup.seen.targets[0].data == setup.region().pinned_data() + kOutput);
  CHECK(setup.seen.targets[0].on_host);
  CHECK(setup.output() == std::string(kRow, '\x04'));
  CHECK(setup.engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("on any GPU") {
  Pinned setup;
  setup.serve_on_gpu({DeviceKind::kCuda, 1});
  REQUIRE(setup.engine.pin(setup.region()));
  CHECK(setup.ask("gpu").status == 200);
  CHECK(setup.seen.parts[0].view.data == setup.region().pinned_data());
  CHECK(setup.output() == std::string(kRow, '\x04'));
}

TEST_CASE("the host copies what is small, what is not pinned, and for models on the CPU") {
  Pinned setup;
  setup.serve_on_gpu();
  setup.serve_on_cpu();
  CHECK(setup.ask("gpu").status == 200);
  CHECK(setup.seen.parts[0].view.data != nullptr);
  CHECK(setup.seen.targets.empty());
  CHECK(setup.output() == std::string(kRow, '\x04'));

  REQUIRE(setup.engine.pin(setup.region()));
  CHECK(setup.ask("gpu", kRow - 1).status == 200);
  CHECK(setup.seen.parts[0].view.data != setup.region().pinned_data());
  setup.object.put(kOutput, std::string(kRow, '\x09'));
  CHECK(setup.ask("gpu", 100, 100).status == 200);
  CHECK(setup.seen.targets.empty());
  CHECK(setup.output(101) == std::string(100, '\x04') + '\x09');
  CHECK(setup.ask("cpu").status == 200);
  CHECK(setup.output() == std::string(kRow, '\x03'));
}

TEST_CASE("an object that has become shorter is the client's error") {
  Pinned setup;
  setup.serve_on_gpu();
  REQUIRE(setup.engine.pin(setup.region()));
  setup.object.resize(kOutput + kRow - 1);
  Answer answer = setup.ask("gpu");
  CHECK(answer.status == 400);
  CHECK(answer.body.find("shorter") != std::string::npos);
  setup.object.resize(kRow - 1);
  answer = setup.ask("gpu");
  CHECK(answer.status == 400);
  CHECK(answer.body.find("shorter") != std::string::npos);
  CHECK(setup.engine.in_flight() == 0);
  CHECK(setup.engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("an output that is larger than its place is refused") {
  Pinned setup;
  setup.serve_on_gpu();
  REQUIRE(setup.engine.pin(setup.region()));
  setup.object.put(0, std::string(kRow + 1, '\x03'));
  CHECK(setup.ask("gpu", kRow + 1, kRow).status == 400);
}

TEST_CASE("pages stay pinned while a batch uses them") {
  Pinned setup;
  setup.serve_on_gpu();
  REQUIRE(setup.engine.pin(setup.region()));
  setup.device.hold();
  setup.client->send(
      post("/v2/models/gpu/infer", R"({"inputs":[{"name":"x","datatype":"UINT8","shape":[1,)" +
                                       std::to_string(kRow) + R"(],"parameters":)" +
                                       Pinned::place(kRow, 0) + "}]}"));
  setup.engine.tick();
  REQUIRE(setup.device.await_launches(1).size() == 1);
  setup.engine.regions().remove_all(DeviceKind::kCpu);
  CHECK(setup.standin.alive("registered") == kRegion);
  setup.device.release();
  CHECK(setup.answer().status == 200);
  CHECK(setup.standin.alive("registered") == 0);
}

TEST_CASE("without a GPU in use nothing is pinned") {
  Object object(kRegion);
  Engine engine(with_standin());
  REQUIRE(engine.regions().add("s", object.key(), 0, kRegion).ok());
  const auto region = *engine.regions().find("s");
  CHECK_FALSE(engine.may_pin(*region));
  CHECK_FALSE(engine.pin(*region));
  CHECK(region->pinned_data() == nullptr);
}

}  // namespace
}  // namespace servolley::engine
