#include "bindings/convert.h"
#include "codec/crc32c.h"

namespace servolley::bindings {
namespace {

PyObject* core_error = nullptr;  // owned by the module

// heavy
std::uint32_t crc32c(const py::bytes& data) {
  const std::string_view view = data;
  const py::gil_scoped_release release;
  return codec::crc32c({reinterpret_cast<const std::byte*>(view.data()), view.size()});
}

}  // namespace

py::object make_error(const Status& status) {
  py::object error = py::handle(core_error)(status.message());
  error.attr("code") = py::str(std::string(code_name(status.code())));
  error.attr("http_status") = http_status(status.code());
  return error;
}

void raise_status(const Status& status) {
  const py::object error = make_error(status);
  PyErr_SetObject(core_error, error.ptr());
  throw py::error_already_set();
}

void bind_errors(py::module_& module) {
  core_error = PyErr_NewExceptionWithDoc(
      "servolley._core.CoreError", "A core Status that is not OK: code, http_status, message.",
      PyExc_Exception, nullptr);
  module.attr("CoreError") = py::reinterpret_borrow<py::object>(core_error);
}

void bind_checksum(py::module_& module) { module.def("crc32c", &crc32c, py::arg("data")); }

}  // namespace servolley::bindings

PYBIND11_MODULE(_core, module) {
  using namespace servolley::bindings;
  module.doc() = "The C++ core of servolley.";
  module.attr("__version__") = SERVOLLEY_VERSION;
  bind_errors(module);
  bind_checksum(module);
  bind_engine(module);
  bind_connection(module);
}
