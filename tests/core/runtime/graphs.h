#pragma once

// Models that are loaded with CUDA graphs, and whether their answers are right.

#include "runtime/gpu_fixture.h"

namespace servolley::ort::testing {

inline std::vector<std::string> logged;

// Collects what the runtime logs while it lives.
struct Log {
  Log() {
    logged.clear();
    set_log_sink([](int, std::string_view line) { logged.emplace_back(line); });
  }
  ~Log() { set_log_sink(nullptr); }
};

inline OrtOptions with_graphs(Gpus& gpus) {
  OrtOptions options = gpus.options();
  options.cuda_graphs = true;
  return options;
}

inline std::vector<OutputTensor> run(LaneExecutor& lanes, int lane, const LaunchedBatch& batch) {
  std::vector<OutputTensor> outputs(1);
  Status status = lanes.launch(lane, batch);
  REQUIRE_MESSAGE(status.ok(), status.message());
  status = lanes.wait(lane, outputs);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return outputs;
}

inline void check_right(Gpus& gpus, LaneExecutor& lanes, int lane, std::int64_t rows, int start,
                        std::int64_t items = 8) {
  Parts parts(gpus.pool, DType::kFp32, {items});
  for (std::int64_t i = 0; i < rows; ++i) parts.add(1, start + static_cast<int>(i));
  std::vector<std::byte> bytes;
  const TensorView whole[] = {parts.whole(bytes)};
  check_same(run(lanes, lane, parts.batch()), gpus.on_cpu("identity_fp32", whole, rows));
}

using Ids = std::vector<int>;

}  // namespace servolley::ort::testing
