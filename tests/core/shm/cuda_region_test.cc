#include <limits>
#include <vector>

#include "client.h"
#include "device/cuda/driver.h"
#include "device/cuda_exporter.h"
#include "shm/objects.h"
#include "shm/regions.h"

namespace servolley::shm {
namespace {

using servolley::testing::Exporter;
using servolley::testing::Standin;

constexpr std::size_t kBytes = 4096;
constexpr Quota kQuota{.regions = 3, .bytes = 3 * kBytes};

// A GPU of the stand-in, and memory of another process on it.
struct Machine {
  Machine() {
    auto opened = cuda::Driver::open(Standin::path());
    REQUIRE(opened);
    driver = std::move(*opened);
    auto found = driver->gpu(0);
    REQUIRE(found);
    gpu = std::move(*found);
  }
  ~Machine() {
    gpu.reset();
    driver.reset();
    CHECK(standin.misuse() == "");
    CHECK(standin.alive("mappings") == 0);
    CHECK(standin.alive("streams") == 0);
  }
  std::shared_ptr<const cuda::IpcMemory> open(std::size_t bytes = kBytes) {
    auto memory = gpu->open_ipc(exporter.handle, bytes);
    REQUIRE(memory);
    return std::move(*memory);
  }

  Standin standin;
  Exporter exporter{Standin::path(), kBytes, 7};
  std::shared_ptr<cuda::Driver> driver;
  std::shared_ptr<cuda::Gpu> gpu;
};

std::vector<std::byte> read(const Region& region, std::uint64_t offset, std::size_t bytes) {
  std::vector<std::byte> found(bytes);
  REQUIRE(region.read(offset, found).ok());
  return found;
}

TEST_CASE("a region of a GPU is read and written through the driver, where its client sees it") {
  Machine machine;
  Regions regions(kQuota);
  REQUIRE(regions.add_cuda("r", 1000, machine.open()).ok());
  CHECK(regions.usage().regions == 1);
  CHECK(regions.usage().bytes == 1000);
  const auto region = *regions.find("r");
  CHECK(region->device() == DeviceId{DeviceKind::kCuda, 0});
  REQUIRE(region->device_data());
  CHECK(read(*region, 0, 1000) == std::vector<std::byte>(1000, std::byte{7}));
  const std::vector<std::byte> nines(10, std::byte{9});
  REQUIRE(region->write(0, nines).ok());
  CHECK(read(*region, 5, 10)[4] == std::byte{9});
  CHECK(read(*region, 5, 10)[5] == std::byte{7});
  CHECK(region->write(1000, {}).ok());
  CHECK(region->check_range(990, 10).ok());
  CHECK(region->check_range(990, 11).code() == Code::kInvalidArgument);
  CHECK(machine.exporter.end() == 9);
}

TEST_CASE("names, quota and sizes are one affair for both kinds of memory") {
  Machine machine;
  testing::Object object(kBytes);
  Regions regions(kQuota);
  REQUIRE(regions.add("system", object.key(), 0, kBytes).ok());
  CHECK(regions.add_cuda("system", 1, machine.open()).code() == Code::kAlreadyExists);
  CHECK(regions.add_cuda("a\nb", 1, machine.open()).code() == Code::kInvalidArgument);
  CHECK(regions.add_cuda("r", 0, machine.open()).code() == Code::kInvalidArgument);
  CHECK(regions.add_cuda("r", kBytes + 1, machine.open()).code() == Code::kInvalidArgument);
  CHECK(regions.add_cuda("r", std::numeric_limits<std::uint64_t>::max(), machine.open()).code() ==
        Code::kResourceExhausted);
  CHECK(regions.usage().regions == 1);
  REQUIRE(regions.add_cuda("r", kBytes, machine.open()).ok());
  CHECK(regions.may_add("s", kBytes).ok());
  CHECK(regions.may_add("s", kBytes + 1).code() == Code::kResourceExhausted);
  CHECK(regions.may_add("r", 1).code() == Code::kAlreadyExists);
  REQUIRE(regions.add_cuda("s", 1, machine.open()).ok());
  CHECK(regions.add_cuda("t", 1, machine.open()).code() == Code::kResourceExhausted);
  // Each kind is forgotten by its own calls.
  regions.remove(DeviceKind::kCpu, "r");
  regions.remove(DeviceKind::kCuda, "system");
  CHECK(regions.table().size() == 3);
  regions.remove_all(DeviceKind::kCpu);
  CHECK(regions.table().size() == 2);
  regions.remove(DeviceKind::kCuda, "r");
  CHECK(regions.table().size() == 1);
  regions.remove_all(DeviceKind::kCuda);
  CHECK(regions.usage().bytes == 0);
}

TEST_CASE("unregistering is deferred while a region is used, also when its client has gone") {
  Machine machine;
  Regions regions(kQuota);
  REQUIRE(regions.add_cuda("r", kBytes, machine.open()).ok());
  auto held = *regions.find("r");
  regions.clear();
  CHECK(regions.usage().regions == 1);
  CHECK(machine.standin.alive("mappings") == 1);
  CHECK(machine.exporter.end() == 7);
  CHECK(read(*held, 0, 1)[0] == std::byte{7});
  held.reset();
  CHECK(regions.usage().regions == 0);
  CHECK(machine.standin.alive("mappings") == 0);
}

TEST_CASE("a copy that fails is an error of the request") {
  Machine machine;
  Regions regions(kQuota);
  REQUIRE(regions.add_cuda("r", kBytes, machine.open()).ok());
  const auto region = *regions.find("r");
  std::vector<std::byte> data(16);
  machine.standin.fail("cuMemcpyDtoHAsync_v2", 1);
  CHECK(region->read(0, data).code() == Code::kInternal);
  CHECK(region->read(0, data).ok());
  machine.standin.fail("cuMemcpyHtoDAsync_v2", 1);
  CHECK(region->write(0, data).code() == Code::kInternal);
  CHECK(region->write(0, data).ok());
}

}  // namespace
}  // namespace servolley::shm
