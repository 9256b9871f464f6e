#include "device/device.h"

#include <charconv>

namespace servolley {

std::string to_string(DeviceId id) {
  return id.kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(id.index);
}

Result<DeviceId> parse_device(std::string_view text) {
  if (text == "cpu") return DeviceId{};
  if (text == "cuda") return DeviceId{DeviceKind::kCuda, 0};
  constexpr std::string_view kPrefix = "cuda:";
  if (text.starts_with(kPrefix)) {
    const std::string_view digits = text.substr(kPrefix.size());
    int index = -1;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
    if (error == std::errc() && end == digits.data() + digits.size() && index >= 0) {
      return DeviceId{DeviceKind::kCuda, index};
    }
  }
  return invalid_argument("unknown device '" + std::string(text) +
                          "'; expected \"cpu\", \"cuda\" or \"cuda:N\"");
}

}  // namespace servolley
