#pragma once

// bindings [layer 6]: the only room with Python.h. Converts and calls; no logic. Every def is
// marked quick (keeps the GIL) or heavy (releases it).

#include <pybind11/pybind11.h>

#include "base/status.h"
#include "engine/engine.h"
#include "engine/inner_session.h"
#include "runtime/ort/ort_runner.h"

namespace servolley::bindings {

namespace py = pybind11;

// The Python exception of a Status. Needs the GIL.
[[noreturn]] void raise_status(const Status& status);
// The same as an object that is not raised.
py::object make_error(const Status& status);
inline void raise_if_error(const Status& status) {
  if (!status.ok()) raise_status(status);
}

struct LoadOptions {
  ort::OrtOptions runtime;
  std::vector<std::string> devices;
  std::map<std::string, std::string> files;  // by compute capability
  engine::ServableOptions servable;
};

// Reads the ServableOptions dictionary; raises CoreError INVALID_ARGUMENT for an unknown key or
// value.
LoadOptions read_load_options(const py::dict& options);

py::dict servable_stats(engine::Servable& servable);
// What of it a canary is judged by; small, however much there is of the rest.
py::dict servable_counts(engine::Servable& servable);
py::dict shadow_stats(const engine::Shadow& shadow);
py::dict pool_stats(const PoolStats& stats);
py::list gpus_in_use(const engine::Gpus& gpus);
py::dict front_stats(const engine::FrontStats& stats);

void bind_errors(py::module_& module);
void bind_engine(py::module_& module);
void bind_connection(py::module_& module);

// The engine as Python holds it: with the library that its models run on.
struct PyEngine {
  std::shared_ptr<ort::OrtLibrary> library;
  std::unique_ptr<engine::Engine> engine;
  py::object scratch_view;  // one memoryview of the read buffer for all connections
  std::vector<std::shared_ptr<engine::Connection>> attention;

  // The connections that want attend(), or None.
  py::object take_attention();
};

void bind_traces(py::class_<PyEngine>& engine);
// The part of Engine that is about clients' memory.
void bind_shared_memory(py::module_& module, py::class_<PyEngine>& engine);

// A connection as Python holds it; keeps its engine alive through pybind11's keep_alive.
class BoundConnection final : public engine::Connection {
 public:
  BoundConnection(PyEngine& owner, bool control_only)
      : engine::Connection(*owner.engine, control_only), bound_engine(owner) {}
  PyEngine& bound_engine;
};

// Calls from inside the process, as Python holds them.
class BoundInner final : public engine::InnerConnection {
 public:
  explicit BoundInner(PyEngine& owner) : engine::InnerConnection(*owner.engine) {}
};

}  // namespace servolley::bindings
