#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/convert.h"
#include "bindings/runtime_log.h"

namespace servolley::bindings {
namespace {

using engine::Engine;
using engine::Lease;
using engine::Servable;
using engine::Shadow;

std::unique_ptr<PyEngine> make_engine(
    const std::string& ort_library, std::vector<std::string> cuda_libraries, std::size_t pool_bytes,
    std::uint64_t body_bytes, std::size_t decoded_bytes, std::uint32_t queue_size,
    std::uint64_t request_timeout_us, std::uint64_t inline_threshold_us, std::uint64_t busy_poll_us,
    int load_niceness, int grpc_compression_level, std::size_t shared_memory_regions,
    std::uint64_t shared_memory_bytes, std::size_t gpu_pool_bytes) {
  engine::EngineOptions options;
  options.pool_bytes = pool_bytes;
  options.body_bytes = body_bytes;
  options.decoded_bytes = decoded_bytes;
  options.queue_size = queue_size;
  options.request_timeout_us = request_timeout_us;
  options.inline_threshold_us = inline_threshold_us;
  options.busy_poll_us = busy_poll_us;
  options.load_niceness = load_niceness;
  options.grpc_compression_level = std::clamp(grpc_compression_level, 0, 9);
  options.shared_memory = {.regions = shared_memory_regions, .bytes = shared_memory_bytes};
  options.gpu_pool_bytes = gpu_pool_bytes;
  options.http.body_bytes = body_bytes;
  // One limit for what a client may send at once, whichever protocol it speaks.
  options.http2.message_bytes = std::min(options.http2.message_bytes, body_bytes);
  options.http2.buffered_message_bytes =
      std::max(options.http2.buffered_message_bytes, options.http2.message_bytes);
  collect_runtime_log();
  ort::set_cuda_libraries(std::move(cuda_libraries));
  auto out = std::make_unique<PyEngine>();
  Status status;
  {
    const py::gil_scoped_release release;
    // One ceiling for our tensors and one of the same size for what the runtime needs in between.
    auto library = ort::OrtLibrary::open(ort_library, pool_bytes);
    if (library) {
      out->library = std::move(*library);
      out->engine = std::make_unique<Engine>(options);
    } else {
      status = library.error();
    }
  }
  raise_if_error(status);
  const auto& scratch = out->engine->scratch();
  out->scratch_view =
      py::memoryview::from_memory(scratch.data.get(), static_cast<py::ssize_t>(scratch.size));
  return out;
}

// What a word for devices means on this machine.
Result<std::vector<DeviceId>> named_devices(PyEngine& self, const std::string& name) {
  engine::Gpus& opener = self.engine->gpus();
  const Status supported = ort::check_gpu_support(*self.library, {DeviceKind::kCuda, 0});
  if (name == "auto") return std::vector{supported.ok() ? opener.best() : DeviceId{}};
  if (name == "cuda") {
    if (!supported.ok()) return supported;
    return opener.all();
  }
  auto parsed = parse_device(name);
  if (!parsed) return std::move(parsed).error();
  return std::vector{*parsed};
}

// What the model asks to run on, opened; none: the CPU.
Status open_devices(PyEngine& self, const std::vector<std::string>& names,
                    std::vector<ort::OrtGpu>& gpus) {
  for (const std::string& name : names) {
    const auto devices = named_devices(self, name);
    if (!devices) return devices.error();
    for (const DeviceId device : *devices) {
      if (device.kind == DeviceKind::kCpu) continue;
      SERVOLLEY_TRY(ort::check_gpu_support(*self.library, device));
      auto gpu = self.engine->gpus().use(device.index);
      if (!gpu) return std::move(gpu).error();
      gpus.push_back({.device = (*gpu)->device, .memory = (*gpu)->memory.get()});
    }
  }
  return {};
}

Result<std::string> file_of(const LoadOptions& read, const std::string& path) {
  std::vector<cuda::DeviceInfo> infos;
  for (const ort::OrtGpu& gpu : read.runtime.gpus) infos.push_back(gpu.device->info());
  return engine::file_for(infos, read.files, path);
}

std::shared_ptr<Servable> load(PyEngine& self, const std::string& name, std::int64_t version,
                               const std::string& path, const py::dict& options) {
  LoadOptions read = read_load_options(options);
  Status status;
  std::shared_ptr<Servable> servable;
  {
    const py::gil_scoped_release release;
    read.runtime.pool = &self.engine->pool();
    read.runtime.load_niceness = self.engine->options().load_niceness;
    read.runtime.name = "model '" + name + "' version " + std::to_string(version);
    read.servable.load_started = Clock::now();
    status = open_devices(self, read.devices, read.runtime.gpus);
    auto file = status.ok() ? file_of(read, path) : Result<std::string>(status);
    if (!file) status = file.error();
    if (status.ok()) {
      auto runner = ort::load_model(self.library, *file, read.runtime);
      if (runner) {
        auto made = self.engine->create_servable(name, version, std::move(*runner), read.servable);
        if (made) {
          servable = std::move(*made);
        } else {
          status = made.error();
        }
      } else {
        status = runner.error();
      }
    }
  }
  raise_if_error(status);
  return servable;
}

void warm_up(PyEngine& self, Servable& servable, const py::bytes& predict_request, int runs) {
  const std::string_view view = predict_request;
  Status status;
  {
    const py::gil_scoped_release release;
    status = servable.warm_up_with({reinterpret_cast<const std::byte*>(view.data()), view.size()},
                                   runs, self.engine->options().decoded_bytes);
  }
  raise_if_error(status);
}

std::shared_ptr<Servable> reconfigure(PyEngine& self, const Servable& servable,
                                      const py::dict& options) {
  LoadOptions read = read_load_options(options);
  Status status;
  std::shared_ptr<Servable> out;
  {
    const py::gil_scoped_release release;
    auto runner = servable.runner();
    if (runner) {
      auto made = self.engine->create_servable(servable.name(), servable.version(),
                                               std::move(runner), read.servable);
      if (made) {
        out = std::move(*made);
      } else {
        status = made.error();
      }
    } else {
      status = Status(Code::kFailedPrecondition, "the servable is closed");
    }
  }
  raise_if_error(status);
  return out;
}

void set_routes(PyEngine& self, const std::string& model,
                const std::map<std::int64_t, std::shared_ptr<Servable>>& versions,
                std::optional<std::int64_t> default_version,
                const std::map<std::string, std::int64_t>& labels,
                const std::map<std::int64_t, std::uint32_t>& split,
                std::shared_ptr<Shadow> shadow) {
  engine::ModelRoutes routes;
  routes.versions = versions;
  if (default_version) {
    const auto at = versions.find(*default_version);
    if (at == versions.end()) {
      raise_status(invalid_argument("the default version is not among the versions"));
    }
    routes.default_version = at->second;
  }
  routes.labels.insert(labels.begin(), labels.end());
  for (const auto& [version, weight] : split) {
    const auto at = versions.find(version);
    if (at == versions.end() || !default_version) {
      raise_status(invalid_argument("a version of the split is not among the versions"));
    }
    routes.split.push_back(at->second);
    routes.choice.add(weight);
  }
  if (routes.choice.empty()) routes.split.clear();
  routes.shadow = std::move(shadow);
  self.engine->set_routes(model, std::move(routes));
}

std::unique_ptr<Lease> choose(PyEngine& self, const std::string& model,
                              std::optional<std::int64_t> version,
                              const std::optional<std::string>& label, bool rest) {
  engine::HotRoute route;
  route.dialect = rest ? engine::Dialect::kTfsHttp : engine::Dialect::kTfsGrpc;
  route.model = model;
  route.version = version;
  if (label) route.label = *label;
  auto lease = self.engine->choose(route);
  if (!lease) raise_status(lease.error());
  return std::make_unique<Lease>(std::move(*lease));
}

std::shared_ptr<Shadow> make_shadow(PyEngine& self, std::shared_ptr<Servable> servable,
                                    std::uint32_t fraction_ppm, std::uint32_t max_in_flight,
                                    std::uint64_t max_bytes) {
  return self.engine->create_shadow(
      std::move(servable),
      {.fraction_ppm = fraction_ppm, .max_in_flight = max_in_flight, .max_bytes = max_bytes});
}

std::int64_t next_expiry_us(const PyEngine& self) {
  const TimePoint now = Clock::now();
  const TimePoint next = self.engine->next_expiry(now);
  if (next == kNever) return -1;
  // Rounded up, so that the timer does not fire just before there is work.
  return to_ns(next - now) / 1000 + 1;
}

// Runs a member of the engine without the GIL, then reports who wants attention.
template <class F>
py::object heavy(PyEngine& self, F&& call) {
  {
    const py::gil_scoped_release release;
    call(*self.engine);
  }
  return self.take_attention();
}

void bind_servable(py::module_& module) {
  py::class_<TensorSpec>(module, "TensorSpec")
      .def_property_readonly("name", [](const TensorSpec& s) { return s.name; })  // quick
      .def_property_readonly("datatype",
                             [](const TensorSpec& s) { return std::string(oip_name(s.dtype)); })
      .def_property_readonly("tf_dtype",
                             [](const TensorSpec& s) { return std::string(tf_name(s.dtype)); })
      .def_property_readonly("shape",
                             [](const TensorSpec& s) {
                               const auto dims = s.shape.dims();
                               return std::vector<std::int64_t>(dims.begin(), dims.end());
                             })
      .def_property_readonly("rank_known", [](const TensorSpec& s) { return s.rank_known; })
      .def_property_readonly("labels", [](const TensorSpec& s) { return s.labels; });

  py::class_<Servable, std::shared_ptr<Servable>>(module, "Servable")
      // quick
      .def_property_readonly("name", &Servable::name)
      .def_property_readonly("version", &Servable::version)
      .def_property_readonly("platform",
                             [](const Servable& s) { return std::string(s.platform()); })
      .def_property_readonly("inputs", [](const Servable& s) { return s.signature().inputs; })
      .def_property_readonly("outputs", [](const Servable& s) { return s.signature().outputs; })
      .def_property_readonly("max_batch_size", &Servable::max_batch_size)
      .def_property_readonly("max_batch_inferred", &Servable::max_batch_inferred)
      .def_property_readonly("rows_depend", &Servable::rows_depend)
      .def_property_readonly(
          "execution", [](const Servable& s) { return s.runs_inline() ? "inline" : "threads"; })
      .def_property_readonly("instances", &Servable::instances)
      .def_property_readonly("devices",
                             [](const Servable& s) {
                               std::vector<std::string> names;
                               for (const DeviceId device : s.devices()) {
                                 names.push_back(to_string(device));
                               }
                               if (names.empty()) names.push_back(to_string(DeviceId{}));
                               return names;
                             })
      .def_property_readonly("broken", &Servable::broken)
      .def_property_readonly("cuda_graphs",
                             [](const Servable& s) {
                               constexpr const char* kNames[] = {"off", "on", "refused", "not_yet"};
                               return kNames[static_cast<std::size_t>(s.graphs())];
                             })
      .def_property_readonly("load_ns", [](const Servable& s) { return to_ns(s.load_time()); })
      .def("stats", &servable_stats)
      .def("counts", &servable_counts)
      .def("watch_outputs", &Servable::watch_outputs, py::arg("watched"))
      // heavy
      .def("close", &Servable::close, py::call_guard<py::gil_scoped_release>());

  py::class_<Lease>(module, "Lease")
      // quick
      .def_property_readonly("servable",
                             [](const Lease& lease) {
                               if (!lease.target().servable) raise_status(engine::released());
                               return lease.target().servable;
                             })
      .def("release", &Lease::release)
      .def("__enter__", [](py::object self) { return self; })
      .def("__exit__", [](Lease& self, const py::args&) { self.release(); });

  py::class_<Shadow, std::shared_ptr<Shadow>>(module, "Shadow")
      // quick
      .def("stats", &shadow_stats)
      // heavy
      .def("close", &Shadow::close, py::call_guard<py::gil_scoped_release>());
}

}  // namespace

py::object PyEngine::take_attention() {
  attention.clear();
  engine->take_attention(attention);
  if (attention.empty()) return py::none();
  py::list out;
  for (auto& connection : attention) {
    if (connection->from_outside()) {
      out.append(py::cast(std::static_pointer_cast<BoundConnection>(connection)));
    } else {
      out.append(py::cast(std::static_pointer_cast<BoundInner>(connection)));
    }
  }
  attention.clear();
  return out;
}

void bind_engine(py::module_& module) {
  bind_servable(module);
  const engine::EngineOptions defaults;
  py::class_<PyEngine> engine(module, "Engine");
  bind_shared_memory(module, engine);
  bind_traces(engine);
  engine
      // heavy
      .def(py::init(&make_engine), py::kw_only(), py::arg("ort_library"),
           py::arg("cuda_libraries") = std::vector<std::string>(),
           py::arg("pool_bytes") = defaults.pool_bytes, py::arg("body_bytes") = defaults.body_bytes,
           py::arg("decoded_bytes") = defaults.decoded_bytes,
           py::arg("queue_size") = defaults.queue_size,
           py::arg("request_timeout_us") = defaults.request_timeout_us,
           py::arg("inline_threshold_us") = defaults.inline_threshold_us,
           py::arg("busy_poll_us") = defaults.busy_poll_us,
           py::arg("load_niceness") = defaults.load_niceness,
           py::arg("grpc_compression_level") = defaults.grpc_compression_level,
           py::arg("shared_memory_regions") = defaults.shared_memory.regions,
           py::arg("shared_memory_bytes") = defaults.shared_memory.bytes,
           py::arg("gpu_pool_bytes") = defaults.gpu_pool_bytes)
      .def("load", &load, py::arg("name"), py::arg("version"), py::arg("path"), py::arg("options"),
           py::keep_alive<0, 1>())
      .def("warm_up", &warm_up, py::arg("servable"), py::arg("predict_request"), py::arg("runs"))
      .def("reconfigure", &reconfigure, py::arg("servable"), py::arg("options"),
           py::keep_alive<0, 1>())
      .def("tick", [](PyEngine& self) { return heavy(self, [](Engine& e) { e.tick(); }); })
      .def("drain",
           [](PyEngine& self) { return heavy(self, [](Engine& e) { e.drain_completions(); }); })
      .def("close",
           [](PyEngine& self) {
             const py::gil_scoped_release release;
             self.engine->close();
           })
      // quick
      .def("expire",
           [](PyEngine& self) {
             self.engine->expire(Clock::now());
             return self.take_attention();
           })
      .def("begin_drain",
           [](PyEngine& self) {
             self.engine->begin_drain();
             return self.take_attention();
           })
      .def_property_readonly("completion_fd",
                             [](const PyEngine& self) { return self.engine->completion_fd(); })
      .def_property_readonly("runtime_version",
                             [](const PyEngine& self) { return self.library->version(); })
      .def_property_readonly("providers",
                             [](const PyEngine& self) { return self.library->providers(); })
      .def("set_routes", &set_routes, py::arg("model"), py::arg("versions"), py::arg("default"),
           py::arg("labels"), py::arg("split") = std::map<std::int64_t, std::uint32_t>(),
           py::arg("shadow") = nullptr)
      .def("shadow", &make_shadow, py::arg("servable"), py::arg("fraction_ppm"),
           py::arg("max_in_flight"), py::arg("max_bytes"), py::keep_alive<0, 1>())
      .def("choose", &choose, py::arg("model"), py::arg("version") = std::nullopt,
           py::arg("label") = std::nullopt, py::arg("rest") = false, py::keep_alive<0, 1>())
      .def(
          "remove_routes",
          [](PyEngine& self, const std::string& model) { self.engine->remove_routes(model); },
          py::arg("model"))
      .def_property_readonly("next_expiry_us", &next_expiry_us)
      .def_property_readonly("in_flight",
                             [](const PyEngine& self) { return self.engine->in_flight(); })
      .def("take_runtime_log", [](const PyEngine&) { return take_runtime_log(); })
      .def("pool_stats", [](PyEngine& self) { return pool_stats(self.engine->pool().stats()); })
      .def("gpus", [](PyEngine& self) { return gpus_in_use(self.engine->gpus()); })
      .def("front_stats",
           [](const PyEngine& self) { return front_stats(self.engine->front_stats()); });
}

}  // namespace servolley::bindings
