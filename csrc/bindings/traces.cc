#include <pybind11/stl.h>

#include "bindings/convert.h"

namespace servolley::bindings {
namespace {

using engine::Trace;

py::list stages(const Trace& trace) {
  // Without a run the end of the computation means nothing.
  const TimePoint computed = trace.taken == TimePoint() ? TimePoint() : trace.answering;
  const std::pair<const char*, TimePoint> passed[] = {
      {"REQUEST_START", trace.received},       {"QUEUE_START", trace.admitted},
      {"COMPUTE_START", trace.taken},          {"COMPUTE_INPUT_END", trace.inputs_ready},
      {"COMPUTE_OUTPUT_START", trace.run_end}, {"COMPUTE_END", computed},
      {"REQUEST_END", trace.answered},
  };
  py::list out;
  for (const auto& [name, at] : passed) {
    if (at != TimePoint()) out.append(py::make_tuple(name, to_ns(at.time_since_epoch())));
  }
  return out;
}

py::list take_traces(PyEngine& self) {
  py::list out;
  for (const Trace& trace : self.engine->tracer().take()) {
    py::dict entry;
    entry["id"] = trace.id;
    entry["model"] = trace.model;
    entry["version"] = trace.version;
    // A client's text; whatever is not Unicode in it shall not cost the trace.
    entry["request_id"] = py::reinterpret_steal<py::object>(PyUnicode_DecodeUTF8(
        trace.request_id.data(), static_cast<Py_ssize_t>(trace.request_id.size()), "replace"));
    entry["dialect"] = engine::kDialectNames[static_cast<std::size_t>(trace.dialect)];
    entry["code"] = std::string(code_name(trace.code));
    entry["rows"] = trace.rows;
    entry["batch_rows"] = trace.batch_rows;
    entry["stages"] = stages(trace);
    out.append(entry);
  }
  return out;
}

}  // namespace

void bind_traces(py::class_<PyEngine>& engine) {
  engine
      // quick
      .def(
          "set_trace_rule",
          [](PyEngine& self, const std::optional<std::string>& model, std::uint64_t rate,
             std::int64_t count) {
            self.engine->tracer().set_rule(model.value_or(""), {.rate = rate, .remaining = count});
          },
          py::arg("model"), py::arg("rate"), py::arg("count"))
      .def(
          "remove_trace_rule",
          [](PyEngine& self, const std::string& model) {
            self.engine->tracer().remove_rule(model);
          },
          py::arg("model"))
      .def(
          "traces_remaining",
          [](PyEngine& self, const std::optional<std::string>& model) {
            return self.engine->tracer().rule(model.value_or("")).remaining;
          },
          py::arg("model"))
      .def("take_traces", &take_traces)
      .def_property_readonly("traces_dropped",
                             [](PyEngine& self) { return self.engine->tracer().dropped(); });
}

}  // namespace servolley::bindings
