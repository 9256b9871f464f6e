// Regions in system memory that devices copy from and to by themselves. The stand-in ends whoever
// else touches their pages.

#include <vector>

#include "device/cuda_fixture.h"
#include "device/memory_of.h"
#include "shm/objects.h"
#include "shm/regions.h"

namespace servolley::shm {
namespace {

using servolley::testing::CudaFixture;
using servolley::testing::DeviceBytes;
using testing::Object;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kBytes = 32 * kPage;
constexpr int kOutOfMemory = 2;

struct Setup : CudaFixture {
  Setup() : CudaFixture("guard=1") { REQUIRE(regions.add("r", object.key(), kPage, kBytes).ok()); }

  std::shared_ptr<const Region> find() { return *regions.find("r"); }
  bool pin() { return find()->pin(gpu); }
  // What the device finds at an offset.
  std::string seen(std::uint64_t offset, std::size_t bytes) {
    const DeviceBytes copy(*gpu, bytes);
    cuda::Stream stream = this->stream();
    REQUIRE(stream.copy_to_device(copy.data(), find()->pinned_data() + offset, bytes).ok());
    REQUIRE(stream.synchronize().ok());
    return {reinterpret_cast<const char*>(standin.host_address(copy.data())), bytes};
  }

  Object object{kPage + kBytes};
  Regions regions{{.regions = 8, .bytes = 1 << 20}};
};

TEST_CASE("a device copies from and to the client's pages") {
  Setup setup;
  CHECK(setup.find()->pinned_data() == nullptr);
  REQUIRE(setup.pin());
  REQUIRE(setup.find()->pinned_data());
  CHECK(setup.regions.usage().pinned_bytes == kBytes);
  CHECK(setup.standin.alive("registered") == kBytes);
  setup.object.put(kPage + 100, "first");
  CHECK(setup.seen(100, 5) == "first");
  setup.object.put(kPage + 100, "other");
  CHECK(setup.seen(100, 5) == "other");

  const DeviceBytes source(*setup.gpu, 6);
  std::memcpy(setup.standin.host_address(source.data()), "device", 6);
  cuda::Stream stream = setup.stream();
  REQUIRE(stream.copy_to_host(setup.find()->pinned_data() + kBytes - 6, source.data(), 6).ok());
  REQUIRE(stream.synchronize().ok());
  CHECK(setup.object.get(kPage + kBytes - 6, 6) == "device");
  CHECK(setup.standin.count("pageable_copy") == 0);

  // The host reads and writes as ever, and not through the mapping.
  std::string text(5, '?');
  REQUIRE(setup.find()->read(100, std::as_writable_bytes(std::span(text))).ok());
  CHECK(text == "other");
  REQUIRE(setup.find()->write(7, std::as_bytes(std::span(text))).ok());
  CHECK(setup.seen(7, 5) == "other");
}

TEST_CASE("pages are pinned once, and until the last user lets go") {
  Setup setup;
  REQUIRE(setup.pin());
  CHECK_FALSE(setup.pin());
  auto held = setup.find();
  setup.regions.remove_all(DeviceKind::kCpu);
  CHECK(setup.standin.alive("registered") == kBytes);
  held.reset();
  CHECK(setup.standin.alive("registered") == 0);
  CHECK(setup.regions.usage().pinned_bytes == 0);
  CHECK(setup.regions.usage().regions == 0);
}

TEST_CASE("an object that has become shorter cannot be pinned, and harms nobody if it was before") {
  {
    Setup setup;
    setup.object.resize(2 * kPage);
    CHECK_FALSE(setup.pin());
    CHECK(setup.find()->pinned_data() == nullptr);
  }
  Setup setup;
  REQUIRE(setup.pin());
  CHECK(setup.find()->check_there(0, kBytes).ok());
  setup.object.resize(2 * kPage);
  CHECK(setup.find()->check_there(0, kPage).ok());
  CHECK(setup.find()->check_there(0, kPage + 1).code() == Code::kInvalidArgument);
  (void)setup.seen(0, kBytes);  // whatever is there: the process lives
  CHECK_FALSE(setup.gpu->broken());
}

TEST_CASE("where pages cannot be pinned the host copies") {
  Setup setup;
  setup.standin.fail("cuMemHostRegister_v2", kOutOfMemory);
  CHECK_FALSE(setup.pin());
  CHECK(setup.find()->pinned_data() == nullptr);
  CHECK_FALSE(setup.gpu->broken());
  setup.object.put(kPage, "there");
  std::string text(5, '?');
  REQUIRE(setup.find()->read(0, std::as_writable_bytes(std::span(text))).ok());
  CHECK(text == "there");
}

}  // namespace
}  // namespace servolley::shm
