#include "bindings/convert.h"

#include <pybind11/stl.h>

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace servolley::bindings {
namespace {

engine::Filling filling_of(const std::string& text) {
  if (text == "auto") return engine::Filling::kAuto;
  if (text == "off") return engine::Filling::kOff;
  if (text == "on") return engine::Filling::kOn;
  throw py::value_error("filling must be auto, off or on");
}

engine::Execution execution_of(const std::string& text) {
  if (text == "auto") return engine::Execution::kAuto;
  if (text == "inline") return engine::Execution::kInline;
  if (text == "threads") return engine::Execution::kThreads;
  raise_status(invalid_argument("execution must be auto, inline or threads, not '" + text + "'"));
}

ort::TensorRtOptions tensorrt_of(const py::dict& options) {
  ort::TensorRtOptions out;
  for (const auto& [key, value] : options) {
    const auto name = key.cast<std::string>();
    if (name == "precision") {
      out.precision = value.cast<std::string>();
    } else if (name == "cache") {
      out.cache = value.cast<std::string>();
    } else if (name == "options") {
      out.others = value.cast<std::map<std::string, std::string>>();
    } else {
      raise_status(invalid_argument("unknown option '" + name + "' of tensorrt"));
    }
  }
  return out;
}

std::vector<DeclaredTensor> declared_tensors(const py::dict& tensors) {
  std::vector<DeclaredTensor> out;
  for (const auto& [key, value] : tensors) {
    DeclaredTensor tensor;
    tensor.name = key.cast<std::string>();
    const auto [datatype, dims] = value.cast<
        std::pair<std::optional<std::string>, std::optional<std::vector<std::int64_t>>>>();
    if (datatype) {
      tensor.dtype = dtype_from_oip(*datatype);
      if (!tensor.dtype) {
        raise_status(invalid_argument("'" + *datatype + "' of tensor '" + tensor.name +
                                      "' is not a datatype"));
      }
    }
    if (dims) {
      tensor.shape.emplace();
      for (const std::int64_t dim : *dims) {
        if (tensor.shape->full()) {
          raise_status(invalid_argument("tensor '" + tensor.name + "' has too many dimensions"));
        }
        tensor.shape->push_back(dim);
      }
    }
    out.push_back(std::move(tensor));
  }
  return out;
}

template <class H>
py::dict histogram(const H& h) {
  py::dict out;
  py::list bounds;
  py::list counts;
  for (auto bound : h.upper_bounds()) bounds.append(bound);
  for (auto count : h.counts()) counts.append(count);
  out["upper_bounds"] = bounds;
  out["counts"] = counts;
  out["sum"] = h.sum();
  return out;
}

}  // namespace

LoadOptions read_load_options(const py::dict& options) {
  LoadOptions out;
  using Setter = std::function<void(const py::handle&)>;
  const std::map<std::string, Setter> setters = {
      {"devices", [&](const py::handle& v) { out.devices = v.cast<std::vector<std::string>>(); }},
      {"files_by_compute_capability",
       [&](const py::handle& v) { out.files = v.cast<std::map<std::string, std::string>>(); }},
      {"execution",
       [&](const py::handle& v) { out.servable.execution = execution_of(v.cast<std::string>()); }},
      {"filling",
       [&](const py::handle& v) { out.servable.filling = filling_of(v.cast<std::string>()); }},
      {"instances", [&](const py::handle& v) { out.servable.instances = v.cast<int>(); }},
      {"lanes", [&](const py::handle& v) { out.servable.lanes = v.cast<int>(); }},
      {"cuda_graphs", [&](const py::handle& v) { out.runtime.cuda_graphs = v.cast<bool>(); }},
      {"cuda_options",
       [&](const py::handle& v) {
         out.runtime.cuda_options = v.cast<std::map<std::string, std::string>>();
       }},
      {"gpu_memory_bytes",
       [&](const py::handle& v) { out.runtime.gpu_memory_bytes = v.cast<std::size_t>(); }},
      {"tensorrt",
       [&](const py::handle& v) {
         if (!v.is_none()) out.runtime.tensorrt = tensorrt_of(v.cast<py::dict>());
       }},
      {"max_batch_size", [&](const py::handle& v) { out.servable.max_batch_size = v.cast<int>(); }},
      {"max_batch_size_if_batchable",
       [&](const py::handle& v) { out.servable.max_batch_size_if_batchable = v.cast<int>(); }},
      {"max_queue_delay_us",
       [&](const py::handle& v) { out.servable.max_queue_delay_us = v.cast<std::uint64_t>(); }},
      {"preferred_batch_sizes",
       [&](const py::handle& v) {
         out.servable.preferred_batch_sizes = v.cast<std::vector<std::uint32_t>>();
       }},
      {"graph_rows",
       [&](const py::handle& v) {
         out.servable.graph_rows = v.cast<std::vector<std::uint32_t>>();
       }},
      {"max_queue_size",
       [&](const py::handle& v) { out.servable.max_queue_size = v.cast<std::uint32_t>(); }},
      {"default_timeout_us",
       [&](const py::handle& v) { out.servable.default_timeout_us = v.cast<std::uint64_t>(); }},
      {"allow_timeout_override",
       [&](const py::handle& v) { out.servable.allow_timeout_override = v.cast<bool>(); }},
      {"intra_op_threads",
       [&](const py::handle& v) { out.runtime.intra_op_threads = v.cast<int>(); }},
      {"inter_op_threads",
       [&](const py::handle& v) { out.runtime.inter_op_threads = v.cast<int>(); }},
      {"parallel_execution",
       [&](const py::handle& v) { out.runtime.parallel_execution = v.cast<bool>(); }},
      {"allow_spinning", [&](const py::handle& v) { out.runtime.allow_spinning = v.cast<bool>(); }},
      {"spin_us", [&](const py::handle& v) { out.runtime.spin_us = v.cast<int>(); }},
      {"graph_optimization",
       [&](const py::handle& v) { out.runtime.graph_optimization = v.cast<int>(); }},
      {"memory_arena", [&](const py::handle& v) { out.runtime.memory_arena = v.cast<bool>(); }},
      {"memory_pattern", [&](const py::handle& v) { out.runtime.memory_pattern = v.cast<bool>(); }},
      {"warmup", [&](const py::handle& v) { out.servable.warmup = v.cast<bool>(); }},
      {"warmup_rows",
       [&](const py::handle& v) {
         out.servable.warmup_rows = v.cast<std::vector<std::uint32_t>>();
       }},
      {"labels",
       [&](const py::handle& v) {
         out.servable.labels = v.cast<std::map<std::string, std::vector<std::string>>>();
       }},
      {"inputs",
       [&](const py::handle& v) { out.servable.inputs = declared_tensors(v.cast<py::dict>()); }},
      {"outputs",
       [&](const py::handle& v) { out.servable.outputs = declared_tensors(v.cast<py::dict>()); }},
  };
  out.servable.max_queue_size = 0;  // the engine's default
  for (const auto& [key, value] : options) {
    const auto name = key.cast<std::string>();
    const auto setter = setters.find(name);
    if (setter == setters.end())
      raise_status(invalid_argument("unknown load option '" + name + "'"));
    try {
      setter->second(value);
    } catch (const py::cast_error&) {
      raise_status(invalid_argument("load option '" + name + "' has the wrong type"));
    }
  }
  return out;
}

py::dict servable_counts(engine::Servable& servable) {
  const engine::ServableStats& stats = servable.stats();
  py::dict out;
  std::uint64_t fail_count = 0;
  py::dict failures;
  for (std::size_t i = 0; i < engine::kFailureReasons; ++i) {
    failures[engine::kFailureReasonNames[i]] = stats.failures[i];
    fail_count += stats.failures[i];
  }
  out["success_count"] = stats.success_count;
  out["success_ns"] = stats.success_ns;
  out["fail_count"] = fail_count;
  out["failures"] = failures;
  out["nonfinite_count"] = stats.nonfinite;
  out["in_flight"] = servable.in_flight();
  out["request_latency_ns"] = histogram(stats.request_latency);
  return out;
}

py::dict servable_stats(engine::Servable& servable) {
  const engine::ServableStats& stats = servable.stats();
  py::dict out = servable_counts(servable);
  py::dict responses;
  for (std::size_t d = 0; d < engine::kDialects; ++d) {
    std::map<std::string, std::uint64_t> by_code;  // several codes share a canonical name
    for (std::size_t c = 0; c < stats.responses[d].size(); ++c) {
      if (stats.responses[d][c]) {
        by_code[std::string(code_name(static_cast<Code>(c)))] += stats.responses[d][c];
      }
    }
    responses[engine::kDialectNames[d]] = py::cast(by_code);
  }
  py::list batches;
  for (const engine::BatchSizeStats& b : stats.batches) {
    py::dict row;
    row["rows"] = b.rows;
    row["executions"] = b.executions;
    row["compute_input_ns"] = b.compute_input_ns;
    row["compute_infer_ns"] = b.compute_infer_ns;
    row["compute_output_ns"] = b.compute_output_ns;
    batches.append(row);
  }
  out["fail_ns"] = stats.fail_ns;
  out["responses"] = responses;
  out["queue_ns"] = stats.queue_ns;
  out["compute_input_ns"] = stats.compute_input_ns;
  out["compute_infer_ns"] = stats.compute_infer_ns;
  out["compute_output_ns"] = stats.compute_output_ns;
  out["inference_count"] = stats.inference_rows;
  out["execution_count"] = stats.executions;
  out["last_inference_ms"] = stats.last_inference_ms;
  out["pending"] = servable.waiting();
  out["batches"] = batches;
  out["queue_latency_ns"] = histogram(stats.queue_latency);
  out["compute_latency_ns"] = histogram(stats.compute_latency);
  out["batch_rows"] = histogram(stats.batch_rows);
  return out;
}

py::dict shadow_stats(const engine::Shadow& shadow) {
  const engine::ShadowStats stats = shadow.stats();
  py::dict out;
  out["taken"] = stats.taken;
  out["dropped"] = stats.dropped;
  out["incompatible"] = stats.incompatible;
  out["compared"] = stats.compared;
  out["failed"] = stats.failed;
  out["in_flight"] = stats.in_flight;
  out["rows"] = stats.rows;
  out["max_abs_error"] = stats.comparison.max_abs_error;
  out["max_rel_error"] = stats.comparison.max_rel_error;
  out["label_flips"] = stats.comparison.label_flips;
  out["unequal_rows"] = stats.comparison.unequal_rows;
  out["nonfinite"] = stats.comparison.nonfinite;
  out["shape_mismatches"] = stats.comparison.shape_mismatches;
  return out;
}

py::dict pool_stats(const PoolStats& stats) {
  py::dict out;
  out["in_use_bytes"] = stats.in_use_bytes;
  out["high_water_bytes"] = stats.high_water_bytes;
  out["cached_bytes"] = stats.cached_bytes;
  out["pinned_bytes"] = stats.pinned_bytes;
  out["allocations"] = stats.allocations;
  return out;
}

py::list gpus_in_use(const engine::Gpus& gpus) {
  py::list out;
  for (const engine::GpuInUse* gpu : gpus.in_use()) {
    const cuda::DeviceInfo& info = gpu->device->info();
    py::dict one;
    one["device"] = to_string(gpu->device->id());
    one["name"] = info.name;
    one["uuid"] = info.uuid;
    one["compute_capability"] = engine::compute_capability(info);
    one["total_bytes"] = info.total_bytes;
    one["broken"] = gpu->device->broken();
    one["pool"] = pool_stats(gpu->memory->stats());
    out.append(one);
  }
  return out;
}

py::dict front_stats(const engine::FrontStats& stats) {
  py::dict responses;
  for (std::size_t status = 0; status < stats.responses.size(); ++status) {
    if (stats.responses[status]) responses[py::int_(status)] = stats.responses[status];
  }
  py::dict out;
  out["connections"] = stats.connections;
  out["connections_total"] = stats.connections_total;
  out["bytes_received"] = stats.bytes_received;
  out["bytes_sent"] = stats.bytes_sent;
  out["responses"] = responses;
  out["unknown_model_requests"] = stats.unknown_model_requests;
  return out;
}

}  // namespace servolley::bindings
