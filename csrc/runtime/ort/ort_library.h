#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/ort/ort_handles.h"
#include "runtime/ort/ort_runner.h"
#include "runtime/ort/ort_status.h"

namespace servolley::ort {

// The function table with what every session needs of it.
class Library final : public OrtLibrary {
 public:
  // Makes the environment on a table that is already open (tests count calls in theirs).
  static Result<std::shared_ptr<Library>> create(const abi::Functions& functions,
                                                 std::string version,
                                                 std::size_t arena_limit_bytes = 0);

  std::string version() const override { return version_; }
  std::vector<std::string> providers() const override { return providers_; }
  bool shares_arena() const { return shares_arena_; }
  bool has_provider(std::string_view name) const;

  const abi::Functions& api() const { return api_; }
  const abi::Env* env() const { return env_.get(); }
  const abi::MemoryInfo* cpu_memory() const { return cpu_memory_.get(); }
  abi::Allocator* allocator() const { return allocator_; }

  Status take(abi::Error* error, Phase phase) const { return take_status(api_, error, phase); }

 private:
  Library(const abi::Functions& functions, std::string version)
      : api_(functions), version_(std::move(version)) {}

  Status share_arena(std::size_t limit_bytes);

  const abi::Functions api_;
  const std::string version_;
  std::vector<std::string> providers_;
  Handle<abi::Env> env_;
  Handle<abi::MemoryInfo> cpu_memory_;
  bool shares_arena_ = false;
  abi::Allocator* allocator_ = nullptr;  // ONNX Runtime's own, never released
};

struct OpenedTable {
  abi::Functions functions;
  std::string version;
};
// Opens the shared library and reads its table.
Result<OpenedTable> open_table(const std::string& path);

}  // namespace servolley::ort
