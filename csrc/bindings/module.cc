#include "bindings/convert.h"

namespace servolley::bindings {
namespace {

PyObject* core_error = nullptr;  // owned by the module

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

}  // namespace servolley::bindings

PYBIND11_MODULE(_core, module) {
  using namespace servolley::bindings;
  module.doc() = "The C++ core of servolley.";
  module.attr("__version__") = SERVOLLEY_VERSION;
  bind_errors(module);
  bind_engine(module);
  bind_connection(module);
}
