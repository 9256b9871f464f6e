#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/clock.h"
#include "runtime/ort/ort_handles.h"
#include "runtime/ort/ort_runner.h"
#include "runtime/ort/ort_status.h"

namespace servolley::ort {

// A run with that many bytes of tensors makes the arena grow by what most other runs do not use.
inline constexpr std::size_t kLargeRunBytes = std::size_t{32} << 20;

// When the last run was that the arena has grown for. Any thread.
class LargeRuns {
 public:
  void note(TimePoint now) {
    last_ns_.store(to_ns(now.time_since_epoch()), std::memory_order_relaxed);
  }
  // True for one caller, once `rest` has passed since. Reads the clock only if there was one.
  bool take_if_over(Duration rest) {
    std::int64_t last = last_ns_.load(std::memory_order_relaxed);
    return last != 0 && to_ns(Clock::now().time_since_epoch()) - last >= to_ns(rest) &&
           last_ns_.compare_exchange_strong(last, 0, std::memory_order_relaxed);
  }

 private:
  std::atomic<std::int64_t> last_ns_{0};
};

// The function table with what every session needs of it.
class Library final : public OrtLibrary {
 public:
  // Makes the environment on a table that is already open (tests count calls in theirs).
  static Result<std::shared_ptr<Library>> create(const abi::Functions& functions,
                                                 std::string version,
                                                 std::size_t arena_limit_bytes = 0);

  std::string version() const override { return version_; }
  // Whether its version is 1.`minor` or later.
  bool reaches(std::uint32_t minor) const;
  std::vector<std::string> providers() const override { return providers_; }
  bool shares_arena() const { return arena_limit_bytes_ > 0; }
  bool has_provider(std::string_view name) const;

  const abi::Functions& api() const { return api_; }
  const abi::Env* env() const { return env_.get(); }
  const abi::MemoryInfo* cpu_memory() const { return cpu_memory_.get(); }
  abi::Allocator* allocator() const { return allocator_; }
  LargeRuns& large_runs() { return large_runs_; }

  Status take(abi::Error* error, Phase phase) const {
    return take_status(api_, error, phase, arena_limit_bytes_);
  }

 private:
  Library(const abi::Functions& functions, std::string version)
      : api_(functions), version_(std::move(version)) {}

  Status share_arena(std::size_t limit_bytes);

  const abi::Functions api_;
  const std::string version_;
  std::vector<std::string> providers_;
  Handle<abi::Env> env_;
  Handle<abi::MemoryInfo> cpu_memory_;
  std::size_t arena_limit_bytes_ = 0;  // of the arena that all sessions share; 0: none
  LargeRuns large_runs_;
  abi::Allocator* allocator_ = nullptr;  // ONNX Runtime's own, never released
};

// To the sink that ONNX Runtime's own lines go to.
void log(int severity, std::string_view message);

struct OpenedTable {
  abi::Functions functions;
  std::string version;
};
// Opens the shared library and reads its table.
Result<OpenedTable> open_table(const std::string& path);

}  // namespace servolley::ort
