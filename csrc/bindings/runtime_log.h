#pragma once

#include <string>
#include <utility>
#include <vector>

namespace servolley::bindings {

// What ONNX Runtime logs is kept until Python fetches it, because core threads never take the GIL.
// The runtime has one log per process, and so have we.
void collect_runtime_log();

// (severity, line) in order: 2 warning, 3 error, 4 fatal. At most the newest 256 since the last
// call.
std::vector<std::pair<int, std::string>> take_runtime_log();

}  // namespace servolley::bindings
