#include "bindings/runtime_log.h"

#include <cstddef>
#include <mutex>
#include <string_view>

#include "runtime/ort/ort_runner.h"

namespace servolley::bindings {
namespace {

constexpr std::size_t kLinesMax = 256;

struct Lines {
  std::mutex mutex;
  std::vector<std::pair<int, std::string>> kept;
};

// Never destroyed: the runtime's threads may log until the process ends.
Lines& lines() {
  static Lines& lines = *new Lines;
  return lines;
}

void keep(int severity, std::string_view message) {
  Lines& to = lines();
  const std::lock_guard lock(to.mutex);
  if (to.kept.size() >= kLinesMax) to.kept.erase(to.kept.begin());
  to.kept.emplace_back(severity, message);
}

}  // namespace

void collect_runtime_log() { ort::set_log_sink(&keep); }

std::vector<std::pair<int, std::string>> take_runtime_log() {
  Lines& from = lines();
  const std::lock_guard lock(from.mutex);
  return std::exchange(from.kept, {});
}

}  // namespace servolley::bindings
