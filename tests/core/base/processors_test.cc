#include "base/processors.h"

#include <doctest/doctest.h>
#include <sched.h>

#include <filesystem>
#include <fstream>

using namespace servolley;

namespace {

// A made-up /proc and /sys.
class FakeRoot {
 public:
  FakeRoot() {
    std::string name = (std::filesystem::temp_directory_path() / "servolley-root-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()));
    root_ = name;
  }
  ~FakeRoot() { std::filesystem::remove_all(root_); }
  FakeRoot(const FakeRoot&) = delete;
  FakeRoot& operator=(const FakeRoot&) = delete;
  void write(const std::string& path, const std::string& content) const {
    const std::filesystem::path file = root_.string() + path;
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << content;
  }
  std::optional<double> quota() const { return cgroup_quota(root_.string()); }

 private:
  std::filesystem::path root_;
};

}  // namespace

TEST_CASE("no control group, or one without a limit, leaves everything") {
  const FakeRoot root;
  CHECK_FALSE(root.quota());
  root.write("/proc/self/cgroup", "0::/\n");
  CHECK_FALSE(root.quota());
  root.write("/sys/fs/cgroup/cpu.max", "max 100000\n");
  CHECK_FALSE(root.quota());
  root.write("/sys/fs/cgroup/cpu.max", "nonsense");
  CHECK_FALSE(root.quota());
}

TEST_CASE("version 2: the least quota of the group and those above it") {
  const FakeRoot root;
  root.write("/proc/self/cgroup", "0::/kube/pod/box\n");
  root.write("/sys/fs/cgroup/kube/pod/box/cpu.max", "max 100000\n");
  root.write("/sys/fs/cgroup/kube/pod/cpu.max", "150000 100000\n");
  CHECK(root.quota() == doctest::Approx(1.5));
  root.write("/sys/fs/cgroup/kube/pod/box/cpu.max", "50000 100000\n");
  CHECK(root.quota() == doctest::Approx(0.5));
}

TEST_CASE("version 2 in a container: the host's path is not mounted, the root is our group") {
  const FakeRoot root;
  root.write("/proc/self/cgroup", "0::/docker/abc\n");
  root.write("/sys/fs/cgroup/cpu.max", "400000 100000\n");
  CHECK(root.quota() == doctest::Approx(4.0));
}

TEST_CASE("version 1: the cpu controller, under either name of its mount") {
  for (const char* mount : {"cpu", "cpu,cpuacct"}) {
    const FakeRoot root;
    root.write("/proc/self/cgroup", "12:pids:/x\n4:cpu,cpuacct:/docker/abc\n1:cpuset:/y\n0::/z\n");
    const std::string folder = std::string("/sys/fs/cgroup/") + mount;
    root.write(folder + "/cpu.cfs_quota_us", "-1\n");
    root.write(folder + "/cpu.cfs_period_us", "100000\n");
    CHECK_FALSE(root.quota());
    root.write(folder + "/cpu.cfs_quota_us", "250000\n");
    CHECK(root.quota() == doctest::Approx(2.5));
  }
}

TEST_CASE("the affinity mask limits the processors that are granted") {
  CHECK(granted_processors() >= 1);
  cpu_set_t before;
  REQUIRE(::sched_getaffinity(0, sizeof(before), &before) == 0);
  CHECK(granted_processors() <= CPU_COUNT(&before));
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &before)) {
      CPU_SET(cpu, &one);
      break;
    }
  }
  REQUIRE(::sched_setaffinity(0, sizeof(one), &one) == 0);
  CHECK(granted_processors() == 1);
  REQUIRE(::sched_setaffinity(0, sizeof(before), &before) == 0);
}
