#include "engine/gpus.h"

#include <doctest/doctest.h>

#include <thread>
#include <vector>

#include "client.h"

using namespace servolley;
using servolley::engine::Gpus;
using servolley::testing::Standin;

namespace {

constexpr std::size_t kLarge = std::size_t{1} << 20;

// A host pool with the GPUs beside it, as the engine has them.
struct Machine {
  explicit Machine(std::string library, std::size_t memory_bytes = 0)
      : gpus(std::move(library), memory_bytes, host, pool) {}
  HostDevice host;
  Pool pool{host, {}};
  Gpus gpus;
};

}  // namespace

TEST_CASE("the first GPU in use pins the host pool; each has a pool of its own") {
  Standin standin;
  REQUIRE(standin.configure("devices=2,memory=4194304"));
  {
    Machine machine(Standin::path());
    CHECK(machine.gpus.in_use().empty());
    CHECK_FALSE(machine.pool.allocate(kLarge)->pinned());
    const auto devices = machine.gpus.devices();
    REQUIRE(devices);
    CHECK(devices->size() == 2);
    const auto all = machine.gpus.all();
    REQUIRE(all);
    CHECK(*all == std::vector<DeviceId>{{DeviceKind::kCuda, 0}, {DeviceKind::kCuda, 1}});
    // Looking is not using.
    CHECK(machine.gpus.in_use().empty());
    CHECK(standin.alive("contexts") == 0);
    CHECK_FALSE(machine.pool.allocate(kLarge)->pinned());

    const auto one = machine.gpus.use(1);
    REQUIRE(one);
    CHECK(*machine.gpus.use(1) == *one);
    CHECK(machine.gpus.in_use().size() == 1);
    CHECK(machine.pool.allocate(kLarge)->pinned());
    const auto memory = (*one)->memory->allocate(kLarge);
    REQUIRE(memory);
    CHECK((*one)->memory->stats().in_use_bytes == kLarge);
    CHECK((*one)->memory->device().id() == DeviceId{DeviceKind::kCuda, 1});
    // Its ceiling is what it has.
    const auto more = (*one)->memory->allocate(4 * kLarge);
    REQUIRE_FALSE(more);
    CHECK(more.error().code() == Code::kResourceExhausted);
    CHECK(more.error().message().find("cuda:1") != std::string::npos);
    REQUIRE(machine.gpus.use(0));
    CHECK(machine.gpus.in_use().size() == 2);
  }
  CHECK(standin.alive("contexts") == 0);
  CHECK(standin.alive("device_bytes") == 0);
  CHECK(standin.alive("host_bytes") == 0);
  CHECK(standin.misuse() == "");
}

TEST_CASE("files by compute capability") {
  const auto of = [](int major, int minor) {
    cuda::DeviceInfo info;
    info.compute_major = major;
    info.compute_minor = minor;
    return info;
  };
  const std::map<std::string, std::string> files = {{"8.6", "ampere"}, {"9.0", "hopper"}};
  const auto file = [&](std::vector<cuda::DeviceInfo> gpus) {
    const auto found = engine::file_for(gpus, files, "any");
    return found ? *found : found.error().message();
  };
  CHECK(file({}) == "any");
  CHECK(file({of(9, 0)}) == "hopper");
  CHECK(file({of(7, 5), of(8, 9)}) == "any");
  CHECK(file({of(8, 6), of(8, 6)}) == "ampere");
  CHECK(file({of(8, 6), of(7, 5)}) ==
        "one model runs on GPUs that have different files: 'ampere' and 'any'");
}

TEST_CASE("a ceiling of our own holds on each GPU") {
  const Standin standin;
  Machine machine(Standin::path(), kLarge);
  const auto gpu = machine.gpus.use(0);
  REQUIRE(gpu);
  const auto first = (*gpu)->memory->allocate(kLarge);
  CHECK(first);
  CHECK_FALSE((*gpu)->memory->allocate(1));
}

TEST_CASE("no driver and no such GPU: told at every asking, and nothing changes") {
  Machine none("libcuda-that-is-not-there.so.1");
  for (int i = 0; i < 2; ++i) {
    const auto gpu = none.gpus.use(0);
    REQUIRE_FALSE(gpu);
    CHECK(gpu.error().code() == Code::kFailedPrecondition);
    CHECK_FALSE(none.gpus.devices());
  }
  CHECK_FALSE(none.pool.allocate(kLarge)->pinned());
  const Standin standin;
  Machine machine(Standin::path());
  const auto gpu = machine.gpus.use(7);
  REQUIRE_FALSE(gpu);
  CHECK(gpu.error().code() == Code::kFailedPrecondition);
  CHECK(machine.gpus.in_use().empty());
  CHECK_FALSE(machine.pool.allocate(kLarge)->pinned());
}

TEST_CASE("GPUs are asked for by several threads at once, and looked at meanwhile") {
  Standin standin;
  REQUIRE(standin.configure("devices=4"));
  Machine machine(Standin::path());
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (int index = 0; index < 4; ++index) {
          const auto gpu = machine.gpus.use(index);
          if (gpu) (void)(*gpu)->memory->allocate(1000);
          (void)machine.gpus.in_use();
        }
      });
    }
  }
  CHECK(machine.gpus.in_use().size() == 4);
  CHECK(standin.misuse() == "");
}
