#include "runtime/ort/ort_library.h"

#include <dlfcn.h>
#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace servolley::ort {
namespace {

constexpr std::string_view kSeverities[] = {"verbose", "info", "warning", "error", "fatal"};

void log_to_stderr(int severity, std::string_view message) {
  const auto level = static_cast<std::size_t>(std::clamp(severity, 0, 4));
  std::string line = "onnxruntime ";
  line += kSeverities[level];
  line += ": ";
  line += message;
  line += '\n';
  // One write, so that lines of several threads do not mix.
  std::fwrite(line.data(), 1, line.size(), stderr);
}

// ONNX Runtime keeps one logger per process, which may outlive every OrtLibrary of ours; the sink
// must live as long.
std::atomic<LogSink>& log_sink() {
  static std::atomic<LogSink> sink{&log_to_stderr};
  return sink;
}

void on_log(void*, int severity, const char*, const char*, const char*, const char* message) {
  log_sink().load(std::memory_order_relaxed)(severity, clean_message(message ? message : ""));
}

// Whether "1.32.0" is 1.`wanted` or later.
bool version_reaches(const std::string& version, std::uint32_t wanted) {
  int major = 0;
  int minor = 0;
  std::sscanf(version.c_str(), "%d.%d", &major, &minor);
  return major > 1 || (major == 1 && minor >= static_cast<int>(wanted));
}

// The C library raises the size from which it maps memory to that of whatever large block is freed,
// up to 32 MiB. Weights then lie in the heap of the thread that loads them, whose end not even
// malloc_trim() gives back: 12 MB for good with every thread that has unloaded a model of 50 MB.
void map_large_blocks() {
  constexpr int kLargeBlock = 4 << 20;
  ::mallopt(M_MMAP_THRESHOLD, kLargeBlock);  // NOLINT(concurrency-mt-unsafe): it takes the arena's
  ::mallopt(M_TRIM_THRESHOLD, kLargeBlock);  // NOLINT(concurrency-mt-unsafe): lock
}

Status unusable(std::string message) { return {Code::kFailedPrecondition, std::move(message)}; }

}  // namespace

void log(int severity, std::string_view message) {
  log_sink().load(std::memory_order_relaxed)(severity, message);
}

void set_log_sink(LogSink sink) {
  log_sink().store(sink ? sink : &log_to_stderr, std::memory_order_relaxed);
}

Result<OpenedTable> open_table(const std::string& path) {
  // Otherwise the environment starts a thread and opens a data base in the user's cache folder.
  // NOLINTNEXTLINE(concurrency-mt-unsafe): models are loaded after the settings, by one engine
  ::setenv("ORT_DISABLE_TELEMETRY", "1", 0);
  void* handle = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!handle) {
    const char* reason =
        ::dlerror();  // NOLINT(concurrency-mt-unsafe): the C library keeps one per thread
    return unusable("cannot open the ONNX Runtime library '" + path +
                    "': " + (reason ? reason : "unknown reason"));
  }
  using GetBase = const abi::ApiBase* (*)();
  const auto get_base = reinterpret_cast<GetBase>(::dlsym(handle, "OrtGetApiBase"));
  const abi::ApiBase* base = get_base ? get_base() : nullptr;
  if (!base) return unusable("'" + path + "' is not an ONNX Runtime library");

  OpenedTable opened;
  opened.version = base->version();
  // Asking for a version that a library does not have makes it print to stderr, so look first.
  const auto reaches = [&](std::uint32_t api_version) {
    return version_reaches(opened.version, api_version);
  };
  const abi::AnyFunction* table =
      reaches(abi::kApiVersion) ? base->table(abi::kApiVersion) : nullptr;
  if (!table) {
    return unusable("'" + path + "' is ONNX Runtime " + opened.version + "; 1." +
                    std::to_string(abi::kApiVersion) + " or newer is needed");
  }
  opened.functions = abi::read_table(table);
  if (reaches(abi::kPlacesApiVersion)) {
    if (const abi::AnyFunction* newer = base->table(abi::kPlacesApiVersion)) {
      abi::Functions& functions = opened.functions;
      functions.input_memory =
          reinterpret_cast<decltype(functions.input_memory)>(newer[abi::kInputMemorySlot]);
      functions.output_memory =
          reinterpret_cast<decltype(functions.output_memory)>(newer[abi::kOutputMemorySlot]);
    }
  }
  if (reaches(abi::kHasShapeApiVersion)) {
    if (const abi::AnyFunction* newer = base->table(abi::kHasShapeApiVersion)) {
      opened.functions.has_shape =
          reinterpret_cast<decltype(opened.functions.has_shape)>(newer[abi::kHasShapeSlot]);
    }
  }
  return opened;
}

Result<std::shared_ptr<OrtLibrary>> OrtLibrary::open(const std::string& path,
                                                     std::size_t arena_limit_bytes) {
  map_large_blocks();
  auto opened = open_table(path);
  if (!opened) return std::move(opened).error();
  auto library = Library::create(opened->functions, std::move(opened->version), arena_limit_bytes);
  if (!library) return std::move(library).error();
  return std::shared_ptr<OrtLibrary>(std::move(*library));
}

Result<std::shared_ptr<Library>> Library::create(const abi::Functions& functions,
                                                 std::string version,
                                                 std::size_t arena_limit_bytes) {
  std::shared_ptr<Library> library(new Library(functions, std::move(version)));
  const abi::Functions& api = library->api_;
  const auto fatal_status = [](const Status& status) {
    return status.ok() ? Status() : unusable("ONNX Runtime cannot be used: " + status.message());
  };
  const auto fatal = [&](abi::Error* error) {
    return fatal_status(library->take(error, Phase::kLoad));
  };
  abi::Env* env = nullptr;
  SERVOLLEY_TRY(
      fatal(api.create_env_with_logger(&on_log, nullptr, abi::kWarning, "servolley", &env)));
  library->env_ = own(env, api.release_env);
  abi::MemoryInfo* memory = nullptr;
  SERVOLLEY_TRY(
      fatal(api.create_cpu_memory_info(abi::kDeviceAllocator, abi::kDefaultMemory, &memory)));
  library->cpu_memory_ = own(memory, api.release_memory_info);
  SERVOLLEY_TRY(fatal(api.default_allocator(&library->allocator_)));
  char** names = nullptr;
  int count = 0;
  SERVOLLEY_TRY(fatal(api.available_providers(&names, &count)));
  for (int i = 0; i < count; ++i) library->providers_.emplace_back(names[i]);
  SERVOLLEY_TRY(fatal(api.release_providers(names, count)));
  if (arena_limit_bytes > 0) SERVOLLEY_TRY(fatal_status(library->share_arena(arena_limit_bytes)));
  return library;
}

bool Library::reaches(std::uint32_t minor) const { return version_reaches(version_, minor); }

Status Library::share_arena(std::size_t limit_bytes) {
  abi::MemoryInfo* raw_memory = nullptr;
  SERVOLLEY_TRY(
      take(api_.create_cpu_memory_info(abi::kArenaAllocator, abi::kDefaultMemory, &raw_memory),
           Phase::kLoad));
  const auto memory = own(raw_memory, api_.release_memory_info);
  abi::ArenaConfig* raw_config = nullptr;
  constexpr int kLibraryDefault = -1;
  SERVOLLEY_TRY(take(api_.create_arena_config(limit_bytes, kLibraryDefault, kLibraryDefault,
                                              kLibraryDefault, &raw_config),
                     Phase::kLoad));
  const auto config = own(raw_config, api_.release_arena_config);
  SERVOLLEY_TRY(take(api_.register_allocator(env_.get(), raw_memory, raw_config), Phase::kLoad));
  arena_limit_bytes_ = limit_bytes;
  return {};
}

bool Library::has_provider(std::string_view name) const {
  return std::find(providers_.begin(), providers_.end(), name) != providers_.end();
}

}  // namespace servolley::ort
