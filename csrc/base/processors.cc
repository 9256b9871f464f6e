#include "base/processors.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

namespace servolley {
namespace {

std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// cpu.max: "200000 100000" or "max 100000".
std::optional<double> quota_v2(const std::string& folder) {
  const auto line = first_line(folder + "/cpu.max");
  if (!line) return std::nullopt;
  std::istringstream words(*line);
  double quota = 0;
  double period = 0;
  if (!(words >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

std::optional<double> quota_v1(const std::string& folder) {
  const auto quota_text = first_line(folder + "/cpu.cfs_quota_us");
  const auto period_text = first_line(folder + "/cpu.cfs_period_us");
  if (!quota_text || !period_text) return std::nullopt;
  std::istringstream words(*quota_text + ' ' + *period_text);
  double quota = 0;
  double period = 0;
  if (!(words >> quota >> period) || quota <= 0 || period <= 0) return std::nullopt;
  return quota / period;
}

// The least quota of `group` and every group above it. In a container the path may name groups of
// the host that are not mounted here; the mount's root is then the container's own group.
template <class Read>
std::optional<double> least_quota(const std::string& mount, std::string group, Read read) {
  std::optional<double> least;
  while (true) {
    if (const auto quota = read(mount + group)) least = std::min(least.value_or(*quota), *quota);
    if (group.empty()) return least;
    group.resize(group.rfind('/') == std::string::npos ? 0 : group.rfind('/'));
  }
}

int affinity_processors() {
  // The mask may be wider than cpu_set_t; the kernel says EINVAL until it fits.
  for (std::size_t cpus = CPU_SETSIZE; cpus <= (std::size_t{1} << 20); cpus *= 2) {
    std::vector<cpu_set_t> mask(cpus / CPU_SETSIZE);
    const std::size_t bytes = mask.size() * sizeof(cpu_set_t);
    if (::sched_getaffinity(0, bytes, mask.data()) == 0) return CPU_COUNT_S(bytes, mask.data());
  }
  return static_cast<int>(std::thread::hardware_concurrency());
}

// Whether "cpu" is one of the controllers, which have commas between them.
bool lists_cpu(const std::string& controllers) {
  std::istringstream names(controllers);
  std::string name;
  while (std::getline(names, name, ',')) {
    if (name == "cpu") return true;
  }
  return false;
}

}  // namespace

std::optional<double> cgroup_quota(const std::string& root) {
  std::ifstream file(root + "/proc/self/cgroup");
  std::optional<double> least;
  const auto keep = [&](std::optional<double> quota) {
    if (quota) least = std::min(least.value_or(*quota), *quota);
  };
  const std::string mounts = root + "/sys/fs/cgroup";
  std::string line;
  while (std::getline(file, line)) {  // hierarchy:controllers:path
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    std::string group = line.substr(second + 1);
    if (group == "/") group.clear();
    if (controllers.empty()) {
      keep(least_quota(mounts, group, quota_v2));
    } else if (lists_cpu(controllers)) {
      std::string mount = mounts;
      keep(least_quota(mount.append("/").append(controllers), group, quota_v1));
      if (controllers != "cpu") keep(least_quota(mounts + "/cpu", group, quota_v1));
    }
  }
  return least;
}

int granted_processors() {
  int granted = affinity_processors();
  if (const auto quota = cgroup_quota("")) {
    granted = std::min(granted, static_cast<int>(std::ceil(std::min(*quota, 1e6))));
  }
  return std::max(granted, 1);
}

}  // namespace servolley
