#pragma once

#include <optional>
#include <string>

namespace servolley {

// The CPU quota in processors that the control groups of this process leave it (the least along the
// path to the root; v2 and v1), nothing if there is no limit. `root` stands before /proc and
// /sys/fs/cgroup.
std::optional<double> cgroup_quota(const std::string& root);

// Processors that this process may use: the least of the affinity mask and the cgroup's CPU quota
// (v1 and v2), rounded up, at least 1.
int granted_processors();

}  // namespace servolley
