#include <pybind11/stl.h>

#include "bindings/convert.h"

namespace servolley::bindings {
namespace {

using engine::ControlCall;

py::object get_buffer(BoundConnection& connection, py::ssize_t /*sizehint*/) {
  const auto space = connection.receive_space();
  const auto& scratch = connection.bound_engine.engine->scratch();
  if (space.data() == scratch.data.get() && space.size() == scratch.size) {
    return connection.bound_engine.scratch_view;
  }
  return py::memoryview::from_memory(space.data(), static_cast<py::ssize_t>(space.size()));
}

// The two calls of every read, as plain functions of one argument: pybind11's dispatch, which looks
// for overloads and converts, costs more than a small read's bookkeeping.
struct ReadCalls {
  py::object self;  // keeps the connection and its engine alive
  BoundConnection* connection;
};

constexpr const char* kReadCalls = "servolley._core.ReadCalls";

template <class Call>
PyObject* call_read(PyObject* capsule, Call call) {
  auto* const calls = static_cast<ReadCalls*>(PyCapsule_GetPointer(capsule, kReadCalls));
  if (!calls) return nullptr;
  try {
    return call(*calls->connection);
  } catch (py::error_already_set& error) {
    error.restore();
  } catch (const std::exception& error) {
    PyErr_SetString(PyExc_RuntimeError, error.what());
  }
  return nullptr;
}

PyObject* read_get_buffer(PyObject* capsule, PyObject* /*sizehint*/) {
  return call_read(capsule, [](BoundConnection& c) { return get_buffer(c, 0).release().ptr(); });
}

PyObject* read_received(PyObject* capsule, PyObject* nbytes) {
  return call_read(capsule, [&](BoundConnection& c) -> PyObject* {
    const std::size_t bytes = PyLong_AsSize_t(nbytes);
    if (bytes == static_cast<std::size_t>(-1) && PyErr_Occurred()) return nullptr;
    return PyLong_FromUnsignedLong(c.received(bytes));
  });
}

PyMethodDef get_buffer_method{"get_buffer", read_get_buffer, METH_O, nullptr};
PyMethodDef received_method{"received", read_received, METH_O, nullptr};

py::tuple read_calls(const py::object& self) {
  auto calls = std::make_unique<ReadCalls>(ReadCalls{self, &self.cast<BoundConnection&>()});
  const auto capsule =
      py::reinterpret_steal<py::object>(PyCapsule_New(calls.get(), kReadCalls, [](PyObject* dying) {
        delete static_cast<ReadCalls*>(PyCapsule_GetPointer(dying, kReadCalls));
      }));
  if (!capsule) throw py::error_already_set();
  static_cast<void>(calls.release());  // the capsule's now
  const auto bind = [&](PyMethodDef& method) {
    auto* const function = PyCFunction_New(&method, capsule.ptr());
    if (!function) throw py::error_already_set();
    return py::reinterpret_steal<py::object>(function);
  };
  return py::make_tuple(bind(get_buffer_method), bind(received_method));
}

// A piece of output on its way to the transport: keeps the bytes, and the pool behind them, alive
// for as long as the transport looks at it.
struct OutputPiece {
  py::object connection;
  Segment segment;
};

py::list take_output(const py::object& self) {
  Payload output;
  self.cast<BoundConnection&>().take_output(output);
  py::list pieces;
  for (Segment& segment : output.segments()) {
    auto piece = std::make_unique<OutputPiece>();
    piece->connection = self;
    piece->segment = std::move(segment);
    pieces.append(py::memoryview(py::cast(std::move(piece))));
  }
  return pieces;
}

// Header text is bytes on the wire; anything that is not ASCII is shown as Latin-1, as HTTP says.
py::str latin1(const std::string& text) {
  return py::reinterpret_steal<py::str>(
      PyUnicode_DecodeLatin1(text.data(), static_cast<py::ssize_t>(text.size()), nullptr));
}

// A gRPC status code as Python knows it.
Status status_of_grpc(int code, std::string message) {
  if (code == 0) return {};
  const bool known = code > 0 && code <= static_cast<int>(Code::kUnauthenticated);
  return {known ? static_cast<Code>(code) : Code::kUnknown, std::move(message)};
}

void bind_control_call(py::module_& module) {
  py::class_<ControlCall>(module, "ControlCall")
      // quick
      .def_property_readonly("kind", [](const ControlCall& c) { return static_cast<int>(c.kind); })
      .def_property_readonly("exchange", [](const ControlCall& c) { return c.exchange; })
      .def_property_readonly("method", [](const ControlCall& c) { return latin1(c.method); })
      .def_property_readonly("target", [](const ControlCall& c) { return latin1(c.target); })
      .def_property_readonly("headers",
                             [](const ControlCall& c) {
                               py::list out;
                               for (const auto& [name, value] : c.headers) {
                                 out.append(py::make_tuple(latin1(name), latin1(value)));
                               }
                               return out;
                             })
      .def_property_readonly("body", [](const ControlCall& c) { return py::bytes(c.body); })
      .def_property_readonly("timeout_us", [](const ControlCall& c) { return c.timeout_us; });
}

// None, or the exception.
py::object error_of(const Status& status) {
  if (status.ok()) return py::none();
  return make_error(status);
}

void bind_inner_calls(py::module_& module) {
  py::class_<BoundInner, std::shared_ptr<BoundInner>> inner(module, "InnerCalls",
                                                            py::dynamic_attr());
  inner.attr("owner") = py::none();
  inner
      // quick, all of them
      .def(py::init([](PyEngine& engine) {
             auto made = std::make_shared<BoundInner>(engine);
             made->opened(-1);
             return made;
           }),
           py::arg("engine"), py::keep_alive<1, 2>())
      .def(
          "predict",
          [](BoundInner& self, std::uint64_t exchange, const py::bytes& request,
             const engine::Lease& lease, std::uint64_t timeout_us) {
            return self.predict(exchange, std::string_view(request), lease, timeout_us);
          },
          py::arg("exchange"), py::arg("request"), py::arg("lease"), py::arg("timeout_us") = 0)
      .def("cancel", &BoundInner::cancel, py::arg("exchange"))
      .def("attend", &BoundInner::attend)
      .def("take_results",
           [](BoundInner& self) {
             py::list out;
             for (const engine::InnerResult& result : self.take_results()) {
               out.append(py::make_tuple(result.exchange, py::bytes(result.response),
                                         error_of(result.status)));
             }
             return out;
           })
      .def("closed", &BoundInner::closed);
}

}  // namespace

void bind_connection(py::module_& module) {
  module.attr("TICK") = py::int_(static_cast<int>(engine::kTick));
  module.attr("CALLS") = py::int_(static_cast<int>(engine::kCalls));
  module.attr("OUTPUT") = py::int_(static_cast<int>(engine::kOutput));
  module.attr("PAUSE") = py::int_(static_cast<int>(engine::kPause));
  module.attr("RESUME") = py::int_(static_cast<int>(engine::kResume));
  module.attr("CLOSE") = py::int_(static_cast<int>(engine::kClose));
  module.attr("HTTP") = py::int_(static_cast<int>(engine::ControlKind::kHttp));
  module.attr("GRPC_OPEN") = py::int_(static_cast<int>(engine::ControlKind::kGrpcOpen));
  module.attr("GRPC_MESSAGE") = py::int_(static_cast<int>(engine::ControlKind::kGrpcMessage));
  module.attr("GRPC_HALF_CLOSE") = py::int_(static_cast<int>(engine::ControlKind::kGrpcHalfClose));
  module.attr("GRPC_CANCEL") = py::int_(static_cast<int>(engine::ControlKind::kGrpcCancel));
  bind_control_call(module);
  bind_inner_calls(module);

  py::class_<OutputPiece>(module, "_OutputPiece", py::buffer_protocol())
      .def_buffer([](OutputPiece& piece) {
        return py::buffer_info(const_cast<std::byte*>(piece.segment.data), 1,
                               py::format_descriptor<std::uint8_t>::format(), 1,
                               {static_cast<py::ssize_t>(piece.segment.size)}, {py::ssize_t{1}},
                               /*readonly=*/true);
      });

  py::class_<BoundConnection, std::shared_ptr<BoundConnection>> connection(module, "Connection",
                                                                           py::dynamic_attr());
  connection.attr("owner") = py::none();
  connection
      // quick, all of them: a read, an answer and their system calls are bounded
      .def(py::init([](PyEngine& engine, bool control_only) {
             return std::make_shared<BoundConnection>(engine, control_only);
           }),
           py::arg("engine"), py::arg("control_only") = false, py::keep_alive<1, 2>())
      .def("opened", &BoundConnection::opened, py::arg("fd"), py::arg("alpn") = "")
      .def("closed", &BoundConnection::closed)
      .def("read_calls", &read_calls)
      .def("eof_received", &BoundConnection::eof_received)
      .def("take_calls", &BoundConnection::take_calls)
      .def("take_output", &take_output)
      .def("writable", &BoundConnection::writable)
      .def("attend", &BoundConnection::attend)
      .def(
          "respond",
          [](BoundConnection& self, std::uint64_t exchange, int status, const py::bytes& body,
             std::string_view content_type, std::string_view extra_headers) {
            return self.reply(exchange, {.status = status,
                                         .content_type = content_type,
                                         .extra_headers = extra_headers,
                                         .body = std::string_view(body)});
          },
          py::arg("exchange"), py::arg("status"), py::arg("body"),
          py::arg("content_type") = "application/json", py::arg("extra_headers") = "")
      .def(
          "send_message",
          [](BoundConnection& self, std::uint64_t exchange, const py::bytes& message) {
            return self.reply_message(exchange, std::string_view(message));
          },
          py::arg("exchange"), py::arg("message"))
      .def(
          "finish",
          [](BoundConnection& self, std::uint64_t exchange, int code, std::string message) {
            return self.reply_end(exchange, status_of_grpc(code, std::move(message)));
          },
          py::arg("exchange"), py::arg("code"), py::arg("message") = "");
}

}  // namespace servolley::bindings
