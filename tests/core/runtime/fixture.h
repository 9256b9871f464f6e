#pragma once

// What the runtime's tests share: the library and the models, both named by the environment.

#include <doctest/doctest.h>

#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "device/device.h"
#include "memory/pool.h"
#include "runtime/ort/ort_runner.h"

namespace servolley::ort::testing {

// The variable's value; fails the test with a hint where it is not set.
inline std::string required_environment(const char* name, const char* hint) {
  const char* value = std::getenv(name);
  const bool is_set = value && *value;
  REQUIRE_MESSAGE(is_set, std::string(name) << " is not set: " << std::string(hint));
  return is_set ? value : "";
}

inline std::string library_path() {
  return required_environment(
      "SERVOLLEY_TEST_ORT",
      "the path of libonnxruntime.so.*, in the folder onnxruntime/capi of the installed package");
}

inline std::string model_path(const std::string& name) {
  return required_environment("SERVOLLEY_TEST_MODELS",
                              "a folder that `python tests/models.py FOLDER` has filled") +
         '/' + name + "/1/model.onnx";
}

inline std::shared_ptr<OrtLibrary> open_library() {
  auto library = OrtLibrary::open(library_path());
  REQUIRE_MESSAGE(library, std::string("cannot open the library"));
  return *library;
}

// A pool and a library; loads models and runs them.
struct Runtime {
  Pool pool{cpu_device(), {}};
  std::shared_ptr<OrtLibrary> library = open_library();

  OrtOptions options() {
    OrtOptions options;
    options.intra_op_threads = 1;
    options.pool = &pool;
    return options;
  }
  Result<std::shared_ptr<Runner>> try_load(const std::string& name) {
    return load_model(library, model_path(name), options());
  }
  std::shared_ptr<Runner> load(const std::string& name) { return load(name, options()); }
  std::shared_ptr<Runner> load(const std::string& name, const OrtOptions& with) {
    auto runner = load_model(library, model_path(name), with);
    REQUIRE_MESSAGE(runner, name << ": " << (runner ? "" : runner.error().message()));
    return *runner;
  }
  std::unique_ptr<Executor> executor(const std::string& name) { return executor_of(*load(name)); }
  static std::unique_ptr<Executor> executor_of(Runner& runner) {
    auto executor = runner.create_executor();
    REQUIRE(executor);
    return std::move(*executor);
  }
};

// Views: the values must live at least until the run is over.
template <class T>
TensorView view_of(DType dtype, Shape shape, const std::vector<T>& values) {
  return {dtype, shape, reinterpret_cast<const std::byte*>(values.data()),
          values.size() * sizeof(T)};
}
inline TensorView floats(Shape shape, const std::vector<float>& values) {
  return view_of(DType::kFp32, shape, values);
}
inline TensorView bytes_of(Shape shape, const std::string& packed) {
  return {DType::kBytes, shape, reinterpret_cast<const std::byte*>(packed.data()), packed.size()};
}

template <class T>
std::vector<T> values_of(const OutputTensor& output) {
  std::vector<T> values(output.view.bytes / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), output.view.data, values.size() * sizeof(T));
  return values;
}

// Elements back to back, each behind its u32 length.
inline std::string pack(const std::vector<std::string>& elements) {
  std::string packed;
  for (const std::string& element : elements) {
    const auto length = static_cast<std::uint32_t>(element.size());
    packed.append(reinterpret_cast<const char*>(&length), sizeof(length));
    packed += element;
  }
  return packed;
}
inline std::string text_of(const OutputTensor& output) {
  return {reinterpret_cast<const char*>(output.view.data), output.view.bytes};
}

}  // namespace servolley::ort::testing
