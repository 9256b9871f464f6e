#include <pybind11/stl.h>

#include "bindings/convert.h"
#include "shm/system_region.h"

namespace servolley::bindings {
namespace {

// Open memory of another process on a GPU, on its way into a region.
struct PyCudaMemory {
  std::shared_ptr<const cuda::IpcMemory> memory;
};

// A region that is about to be pinned.
struct PySystemMemory {
  std::shared_ptr<const shm::Region> region;
};

std::optional<PySystemMemory> register_system(PyEngine& self, const std::string& name,
                                              const std::string& key, std::uint64_t offset,
                                              std::uint64_t byte_size) {
  raise_if_error(self.engine->regions().add(name, key, offset, byte_size));
  PySystemMemory memory{*self.engine->regions().find(name)};
  if (!self.engine->may_pin(*memory.region)) return std::nullopt;
  return memory;
}

py::list system_regions(const PyEngine& self) {
  py::list out;
  for (const auto& [name, region] : self.engine->regions().table()) {
    const auto* const system = dynamic_cast<const shm::SystemRegion*>(region.get());
    if (!system) continue;
    py::dict entry;
    entry["name"] = name;
    entry["key"] = system->key();
    entry["offset"] = system->offset();
    entry["byte_size"] = system->bytes();
    out.append(entry);
  }
  return out;
}

py::list cuda_regions(const PyEngine& self) {
  py::list out;
  for (const auto& [name, region] : self.engine->regions().table()) {
    const DeviceId device = region->device();
    if (device.kind != DeviceKind::kCuda) continue;
    py::dict entry;
    entry["name"] = name;
    entry["device_id"] = device.index;
    entry["byte_size"] = region->bytes();
    out.append(entry);
  }
  return out;
}

py::dict usage(const PyEngine& self) {
  const shm::Usage& taken = self.engine->regions().usage();
  py::dict out;
  out["regions"] = taken.regions.load();
  out["bytes"] = taken.bytes.load();
  out["pinned_bytes"] = taken.pinned_bytes.load();
  return out;
}

template <DeviceKind kKind>
void unregister(PyEngine& self, const std::optional<std::string>& name) {
  if (name) {
    self.engine->regions().remove(kKind, *name);
  } else {
    self.engine->regions().remove_all(kKind);
  }
}

PyCudaMemory open_cuda_memory(PyEngine& self, const py::bytes& raw_handle, std::int64_t device,
                              std::uint64_t byte_size) {
  const auto handle = static_cast<std::string>(raw_handle);
  Status status;
  PyCudaMemory out;
  {
    const py::gil_scoped_release release;
    auto memory = self.engine->open_cuda_memory(
        device, std::as_bytes(std::span(handle.data(), handle.size())), byte_size);
    if (memory) {
      out.memory = std::move(*memory);
    } else {
      status = memory.error();
    }
  }
  raise_if_error(status);
  return out;
}

}  // namespace

void bind_shared_memory(py::module_& module, py::class_<PyEngine>& engine) {
  const py::class_<PyCudaMemory> cuda_memory(module, "CudaMemory");
  const py::class_<PySystemMemory> system_memory(module, "SystemMemory");
  engine
      // heavy
      .def(
          "pin_shared_memory",
          [](PyEngine& self, const PySystemMemory& memory) {
            return self.engine->pin(*memory.region);
          },
          py::arg("memory"), py::call_guard<py::gil_scoped_release>())
      .def("open_cuda_memory", &open_cuda_memory, py::arg("raw_handle"), py::arg("device"),
           py::arg("byte_size"))
      // quick
      .def(
          "may_register_shared_memory",
          [](const PyEngine& self, const std::string& name, std::uint64_t byte_size) {
            raise_if_error(self.engine->regions().may_add(name, byte_size));
          },
          py::arg("name"), py::arg("byte_size"))
      .def("register_shared_memory", &register_system, py::arg("name"), py::arg("key"),
           py::arg("offset"), py::arg("byte_size"))
      .def(
          "register_cuda_shared_memory",
          [](PyEngine& self, const std::string& name, const PyCudaMemory& memory,
             std::uint64_t byte_size) {
            raise_if_error(self.engine->regions().add_cuda(name, byte_size, memory.memory));
          },
          py::arg("name"), py::arg("memory"), py::arg("byte_size"))
      .def("unregister_shared_memory", &unregister<DeviceKind::kCpu>, py::arg("name"))
      .def("unregister_cuda_shared_memory", &unregister<DeviceKind::kCuda>, py::arg("name"))
      .def("shared_memory_regions", &system_regions)
      .def("cuda_shared_memory_regions", &cuda_regions)
      .def("shared_memory_usage", &usage);
}

}  // namespace servolley::bindings
