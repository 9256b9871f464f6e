#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "base/histogram.h"
#include "base/status.h"

namespace servolley::engine {

enum class Dialect : std::uint8_t { kOipHttp, kTfsHttp, kOipGrpc, kTfsGrpc };
inline constexpr std::size_t kDialects = 4;
inline constexpr std::array<const char*, kDialects> kDialectNames = {"oip_http", "tfs_http",
                                                                     "oip_grpc", "tfs_grpc"};

// Why a request failed, as Triton's nv_inference_request_failure labels it.
enum class FailureReason : std::uint8_t { kRejected, kCanceled, kBackend, kOther };
inline constexpr std::size_t kFailureReasons = 4;
inline constexpr std::array<const char*, kFailureReasons> kFailureReasonNames = {
    "REJECTED", "CANCELED", "BACKEND", "OTHER"};

struct BatchSizeStats {
  std::int64_t rows = 0;
  std::uint64_t executions = 0;
  std::uint64_t compute_input_ns = 0;
  std::uint64_t compute_infer_ns = 0;
  std::uint64_t compute_output_ns = 0;
};

// What one servable has done. Written and read by the loop thread only, when batches complete, so
// nothing here is atomic and nothing is counted per request in Python.
struct ServableStats {
  std::uint64_t success_count = 0;
  std::uint64_t success_ns = 0;
  std::uint64_t fail_ns = 0;
  std::array<std::uint64_t, kFailureReasons> failures{};
  std::array<std::array<std::uint64_t, 23>, kDialects> responses{};  // by dialect and Code
  std::uint64_t queue_ns = 0;
  std::uint64_t compute_input_ns = 0;
  std::uint64_t compute_infer_ns = 0;
  std::uint64_t compute_output_ns = 0;
  std::uint64_t inference_rows = 0;
  std::uint64_t nonfinite = 0;  // answers with NaN or infinity, while that is watched
  std::uint64_t executions = 0;
  std::int64_t last_inference_ms = 0;
  std::vector<BatchSizeStats> batches;  // ascending rows; see batch_of()
  LatencyHistogram request_latency{kLatencyBoundsNs};
  LatencyHistogram queue_latency{kLatencyBoundsNs};
  LatencyHistogram compute_latency{kLatencyBoundsNs};
  BatchRowHistogram batch_rows{kBatchRowBounds};

  // The entry of batches with so many rows. There are never more than a few hundred: among many
  // sizes, a large one is counted at the next power of two.
  BatchSizeStats& batch_of(std::int64_t rows);
};

}  // namespace servolley::engine
