#include "shm/regions.h"

#include <limits>
#include <vector>

#include "shm/objects.h"
#include "shm/system_region.h"

namespace servolley::shm {
namespace {

using testing::Object;
using testing::open_descriptors;

constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kLargest = std::numeric_limits<std::uint64_t>::max();
constexpr Quota kQuota{.regions = 8, .bytes = 1 << 20};

std::span<const std::byte> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::byte*>(text.data()), text.size()};
}

std::string read(const Region& region, std::uint64_t offset, std::size_t bytes) {
  std::string text(bytes, '?');
  const Status status =
      region.read(offset, {reinterpret_cast<std::byte*>(text.data()), text.size()});
  REQUIRE_MESSAGE(status.ok(), status.message());
  return text;
}

TEST_CASE("a region is a window on the client's object") {
  Object object(3 * kPage);
  object.put(kPage, "first");
  object.put(2 * kPage + 7, "second");
  Regions regions(kQuota);
  REQUIRE(regions.add("r", object.key(), kPage, 2 * kPage).ok());
  const auto region = *regions.find("r");
  CHECK(read(*region, 0, 5) == "first");
  CHECK(read(*region, kPage + 7, 6) == "second");
  REQUIRE(region->write(3, bytes_of("written")).ok());
  CHECK(object.get(kPage, 10) == "firwritten");
  CHECK(read(*region, 0, 10) == "firwritten");
  const auto& system = dynamic_cast<const SystemRegion&>(*region);
  CHECK(system.key() == object.key());
  CHECK(system.offset() == kPage);
  CHECK(region->device() == DeviceId{});
  CHECK(region->device_data() == nullptr);
  CHECK(regions.usage().regions == 1);
  CHECK(regions.usage().bytes == 2 * kPage);
}

TEST_CASE("keys come with and without their slash") {
  Object object(kPage);
  Regions regions(kQuota);
  CHECK(regions.add("with", object.key(), 0, 10).ok());
  CHECK(regions.add("without", object.key().substr(1), 0, 10).ok());
}

TEST_CASE("impossible keys, names and parts open nothing") {
  Object object(2 * kPage);
  Regions regions(kQuota);
  const std::size_t before = open_descriptors();
  for (const std::string& key :
       {std::string(), std::string("/"), std::string("//"), std::string("///x"), std::string("."),
        std::string("/.."), std::string("../x"), std::string("/a/b"), std::string("/a\0b", 4),
        std::string("/sem.other"), std::string("/triton_python_backend_shm_region_1"),
        std::string("sem.x"), "/" + std::string(300, 'k'), std::string("/servolley_nobody_made")}) {
    CAPTURE(key);
    CHECK(regions.add("r", key, 0, 1).code() == Code::kInvalidArgument);
  }
  for (const std::string& name : {std::string(), std::string("a\nb"), std::string("\0", 1),
                                  std::string("\x7f"), std::string(257, 'n')}) {
    CAPTURE(name);
    CHECK(regions.add(name, object.key(), 0, 1).code() == Code::kInvalidArgument);
  }
  struct Part {
    std::uint64_t offset, bytes;
  };
  for (const Part& part : std::initializer_list<Part>{{0, 0},
                                                      {1, 1},
                                                      {kPage - 1, 1},
                                                      {0, 2 * kPage + 1},
                                                      {kPage, kPage + 1},
                                                      {2 * kPage, 1},
                                                      {3 * kPage, 1},
                                                      {kLargest - kPage + 1, kPage},
                                                      {kLargest - kPage + 1, 2 * kPage}}) {
    CAPTURE(part.offset);
    CAPTURE(part.bytes);
    CHECK(regions.add("r", object.key(), part.offset, part.bytes).code() == Code::kInvalidArgument);
  }
  CHECK(regions.table().empty());
  CHECK(regions.usage().regions == 0);
  CHECK(regions.usage().bytes == 0);
  CHECK(open_descriptors() == before);
}

TEST_CASE("what is not a shared memory object is not opened") {
  const std::string name = "servolley_test_pipe_" + std::to_string(::getpid());
  const std::string path = "/dev/shm/" + name;
  const std::string link = path + "_link";
  REQUIRE(::mkfifo(path.c_str(), 0600) == 0);
  REQUIRE(::symlink("/etc/hostname", link.c_str()) == 0);
  Regions regions(kQuota);
  const std::size_t before = open_descriptors();
  CHECK(regions.add("r", name, 0, 1).code() == Code::kInvalidArgument);
  CHECK(regions.add("r", name + "_link", 0, 1).code() == Code::kInvalidArgument);
  CHECK(open_descriptors() == before);
  ::unlink(path.c_str());
  ::unlink(link.c_str());
}

TEST_CASE("a name is given once") {
  Object object(kPage);
  Regions regions(kQuota);
  REQUIRE(regions.add("r", object.key(), 0, 10).ok());
  CHECK(regions.add("r", object.key(), 0, 10).code() == Code::kAlreadyExists);
  CHECK(regions.usage().bytes == 10);
  regions.remove(DeviceKind::kCpu, "nobody");
  regions.remove(DeviceKind::kCpu, "r");
  CHECK(regions.add("r", object.key(), 0, 20).ok());
  CHECK(regions.usage().bytes == 20);
}

TEST_CASE("the quota counts regions and bytes, and what is in use though unregistered") {
  Object object(kPage);
  Regions regions({.regions = 2, .bytes = 100});
  REQUIRE(regions.add("a", object.key(), 0, 60).ok());
  CHECK(regions.add("b", object.key(), 0, 41).code() == Code::kResourceExhausted);
  CHECK(regions.add("b", object.key(), 0, kLargest).code() == Code::kResourceExhausted);
  REQUIRE(regions.add("b", object.key(), 0, 40).ok());
  CHECK(regions.add("c", object.key(), 0, 1).code() == Code::kResourceExhausted);
  auto held = *regions.find("a");
  regions.clear();
  CHECK(regions.usage().regions == 1);
  CHECK(regions.add("c", object.key(), 0, 41).code() == Code::kResourceExhausted);
  held.reset();
  CHECK(regions.usage().regions == 0);
  CHECK(regions.add("c", object.key(), 0, 100).ok());
  CHECK_FALSE(Regions({}).enabled());
  CHECK(Regions({}).add("a", object.key(), 0, 1).code() == Code::kResourceExhausted);
}

TEST_CASE("ranges of a region are checked without wrapping") {
  Object object(kPage);
  Regions regions(kQuota);
  REQUIRE(regions.add("r", object.key(), 0, 100).ok());
  const auto region = *regions.find("r");
  CHECK(region->check_range(0, 100).ok());
  CHECK(region->check_range(99, 1).ok());
  CHECK(region->check_range(99, 0).ok());
  for (const auto& [offset, bytes] :
       std::vector<std::pair<std::uint64_t, std::uint64_t>>{{100, 0},
                                                            {100, 1},
                                                            {0, 101},
                                                            {1, 100},
                                                            {kLargest, 1},
                                                            {kLargest - 31, 32},
                                                            {0, kLargest - 31},
                                                            {50, kLargest - 49},
                                                            {kLargest, kLargest}}) {
    CAPTURE(offset);
    CAPTURE(bytes);
    CHECK(region->check_range(offset, bytes).code() == Code::kInvalidArgument);
  }
  CHECK(regions.find("s").error().code() == Code::kNotFound);
}

TEST_CASE("an object that was shortened is an error, not a signal") {
  Object object(2 * kPage);
  Regions regions(kQuota);
  REQUIRE(regions.add("r", object.key(), 0, 2 * kPage).ok());
  const auto region = *regions.find("r");
  object.resize(kPage);
  std::vector<std::byte> data(2 * kPage);
  CHECK(region->read(0, data).code() == Code::kInvalidArgument);
  CHECK(region->read(kPage, std::span(data).first(1)).code() == Code::kInvalidArgument);
  CHECK(region->write(0, data).code() == Code::kInvalidArgument);
  CHECK(region->write(kPage, std::span(data).first(1)).code() == Code::kInvalidArgument);
  CHECK(region->read(0, std::span(data).first(kPage)).ok());
  CHECK(region->write(0, std::span(data).first(kPage)).ok());
  object.resize(2 * kPage);
  CHECK(region->read(0, data).ok());
}

TEST_CASE("unregistering is deferred while a region is used, and outlives the table") {
  const std::size_t before = open_descriptors();
  {
    Object object(kPage);
    object.put(0, "data");
    std::shared_ptr<const Region> held;
    {
      Regions regions(kQuota);
      REQUIRE(regions.add("r", object.key(), 0, kPage).ok());
      held = *regions.find("r");
      regions.remove(DeviceKind::kCpu, "r");
      CHECK_FALSE(regions.find("r").has_value());
      CHECK(read(*held, 0, 4) == "data");
    }
    CHECK(read(*held, 0, 4) == "data");
    CHECK(open_descriptors() == before + 2);
  }
  CHECK(open_descriptors() == before);
}

TEST_CASE("registering again and again leaks nothing") {
  Object object(kPage);
  Regions regions(kQuota);
  const std::size_t before = open_descriptors();
  for (int i = 0; i < 10'000; ++i) {
    REQUIRE(regions.add("r", object.key(), 0, kPage).ok());
    REQUIRE(regions.add("r", object.key(), 0, kPage).code() == Code::kAlreadyExists);
    REQUIRE(regions.add("s", object.key(), 0, kPage + 1).code() == Code::kInvalidArgument);
    regions.remove(DeviceKind::kCpu, "r");
  }
  CHECK(open_descriptors() == before);
  CHECK(regions.usage().bytes == 0);
}

}  // namespace
}  // namespace servolley::shm
