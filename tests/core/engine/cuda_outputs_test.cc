// Outputs that a model on a GPU leaves where its clients want them.

#include <doctest/doctest.h>

#include "cuda_memory.h"

namespace servolley::engine {
namespace {

// What is wanted of an output: in shared memory, or in the answer.
const std::string kBinary = R"({"name":"y"})";

std::string shared(std::uint64_t bytes, std::uint64_t offset) {
  return R"({"name":"y","parameters":)" + Setup::part(bytes, offset) + "}";
}

TEST_CASE("an output is left on the GPU, and the answer says where") {
  Setup setup;
  setup.serve_on_gpu();
  const std::byte* const memory = (*setup.engine.regions().find("r"))->device_data();
  setup.standin.clear_log();
  setup.send("gpu", 100, 20);
  const Answer answer = setup.answer();
  REQUIRE(answer.status == 200);
  CHECK(answer.body.find(R"("shared_memory_region":"r","shared_memory_offset":512,)"
                         R"("shared_memory_byte_size":4)") != std::string::npos);
  REQUIRE(setup.seen.targets.size() == 1);
  CHECK(setup.seen.targets[0].data == memory + 512);
  CHECK(setup.seen.targets[0].capacity == 20);
  CHECK(setup.at(512) == 8);
  CHECK(setup.at(516) == 7);
  for (const char* what : {"copy_to_host", "copy_to_device", "cuStreamSynchronize"}) {
    CHECK(setup.standin.count(what) == 0);
  }
  CHECK(setup.engine.pool().stats().in_use_bytes == 0);
  // Too little room is what it was: an error that says how much it takes.
  setup.send("gpu", 100, 3);
  const Answer small = setup.answer();
  CHECK(small.status == 400);
  CHECK(small.body.find("it has 4 bytes") != std::string::npos);
  // Into the very memory that the input lies in.
  setup.send("gpu", 512);
  REQUIRE(setup.answer().status == 200);
  CHECK(setup.at(512) == 9);
}

TEST_CASE("in one batch some take the answer with them and others have it on the GPU") {
  Setup setup;
  setup.serve_on_gpu();
  setup.device.hold();
  Client others[3] = {Client(setup.engine), Client(setup.engine), Client(setup.engine)};
  setup.send("gpu", 0);
  REQUIRE(setup.device.await_launches(1).size() == 1);
  setup.send(others[0], "gpu", Setup::part(4, 0), shared(4, 1024));
  setup.send(others[1], "gpu", Setup::part(4, 0), kBinary);
  setup.send(others[2], "gpu", Setup::part(4, 0), shared(3, 2048));
  setup.device.release();
  CHECK(setup.answer().status == 200);
  CHECK(setup.answer(others[0]).status == 200);
  CHECK(setup.answer(others[1]).body.find(R"("data":[8,8,8,8])") != std::string::npos);
  CHECK(setup.answer(others[2]).status == 400);
  CHECK(setup.device.await_launches(2) == std::vector<std::int64_t>{1, 3});
  CHECK(setup.at(1024) == 8);
  CHECK(setup.at(2048) == 7);
  CHECK(setup.engine.pool().stats().in_use_bytes == 0);
}

TEST_CASE("who else needs an output has it brought to the host") {
  Setup setup;
  setup.serve_on_gpu();
  SUBCASE("watched for NaN") {
    setup.servable->watch_outputs(true);
    setup.send("gpu", 0);
    REQUIRE(setup.answer().status == 200);
    CHECK(setup.seen.targets.empty());
    CHECK(setup.at(512) == 8);
    // Watched from now on, which is what counts, or no more.
    setup.device.hold();
    setup.send("gpu", 0);
    REQUIRE(setup.device.await_launches(2).size() == 2);
    setup.servable->watch_outputs(false);
    setup.device.release();
    REQUIRE(setup.answer().status == 200);
    setup.device.hold();
    setup.send("gpu", 0);
    REQUIRE(setup.device.await_launches(3).size() == 3);
    CHECK(setup.seen.targets.size() == 1);
    setup.servable->watch_outputs(true);
    setup.device.release();
    CHECK(setup.answer().status == 200);
  }
  SUBCASE("a shadow") {
    const auto second = serve(
        setup.engine, unary_signature(DType::kUint8),
        [&](auto inputs, auto, auto outputs) {
          return copy_through(setup.engine.pool(), inputs, outputs);
        },
        with(Execution::kThreads), "second");
    ModelRoutes routes;
    routes.versions[1] = routes.default_version = setup.servable;
    routes.shadow = setup.engine.create_shadow(second, {});
    setup.engine.set_routes("gpu", routes);
    setup.send("gpu", 0);
    REQUIRE(setup.answer().status == 200);
    CHECK(setup.seen.targets.empty());
    CHECK(setup.at(512) == 8);
    setup.engine.remove_routes("gpu");
    setup.engine.remove_routes("second");
    routes.shadow->close();
  }
}

TEST_CASE("a region that is unregistered meanwhile is written to until the answer is there") {
  Setup setup;
  setup.serve_on_gpu();
  setup.device.hold();
  setup.client->send(
      post("/v2/models/gpu/infer",
           R"({"inputs":[{"name":"x","datatype":"UINT8","shape":[1,4],"data":[1,2,3,4]}],)"
           R"("outputs":[)" +
               shared(4, 512) + "]}"));
  REQUIRE(setup.device.await_launches(1).size() == 1);
  const auto region = *setup.engine.regions().find("r");
  setup.engine.regions().remove_all(DeviceKind::kCuda);
  std::byte* const at = setup.standin.host_address(region->device_data()) + 512;
  CHECK(setup.standin.alive("mappings") == 1);
  setup.device.release();
  CHECK(setup.answer().status == 200);
  CHECK(*at == std::byte{2});
}

}  // namespace
}  // namespace servolley::engine
