#include <cstdlib>

#include "runtime/fixture.h"
#include "runtime/ort/ort_library.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

TEST_CASE("the installed library opens, tells its version and has the CPU provider") {
  const auto library = open_library();
  CHECK(library->version().starts_with("1."));
  bool cpu = false;
  for (const auto& provider : library->providers()) cpu |= provider == "CPUExecutionProvider";
  CHECK(cpu);
}

TEST_CASE("opening the library turns telemetry off unless the user chose") {
  ::unsetenv("ORT_DISABLE_TELEMETRY");
  { const auto library = open_library(); }
  CHECK(std::string(std::getenv("ORT_DISABLE_TELEMETRY")) == "1");
  ::setenv("ORT_DISABLE_TELEMETRY", "0", 1);
  { const auto library = open_library(); }
  CHECK(std::string(std::getenv("ORT_DISABLE_TELEMETRY")) == "0");
  ::setenv("ORT_DISABLE_TELEMETRY", "1", 1);
}

TEST_CASE("a path that is no ONNX Runtime is FAILED_PRECONDITION and named") {
  for (const char* path : {"/nonexistent/libonnxruntime.so", "libm.so.6", "/dev/null"}) {
    CAPTURE(std::string(path));
    const auto library = OrtLibrary::open(path);
    REQUIRE_FALSE(library);
    CHECK(library.error().code() == Code::kFailedPrecondition);
    CHECK(library.error().message().find(path) != std::string::npos);
  }
}

TEST_CASE("a device that the library has no provider for is FAILED_PRECONDITION, not a fall-back") {
  Runtime runtime;
  const auto providers = runtime.library->providers();
  bool cuda = false;
  for (const auto& provider : providers) cuda |= provider == "CUDAExecutionProvider";
  const Status support = check_gpu_support(*runtime.library, {DeviceKind::kCuda, 0});
  CHECK(support.ok() == cuda);
  if (cuda) return;
  CHECK(support.code() == Code::kFailedPrecondition);
  CHECK(support.message().find("cuda:0") != std::string::npos);
  CHECK(support.message().find("onnxruntime-gpu") != std::string::npos);
}

namespace {
int logged = 0;
std::string last_line;
void remember(int severity, std::string_view message) {
  if (severity >= abi::kWarning) ++logged;
  last_line = message;
}
}  // namespace

TEST_CASE("what the runtime logs reaches the sink as one clean line; failed runs log nothing") {
  Runtime runtime;
  logged = 0;
  set_log_sink(&remember);
  // A model that declares a wrong output shape makes the library warn while it loads or runs.
  (void)runtime.try_load("misdeclared");
  CHECK(logged > 0);
  CHECK(last_line.find('\n') == std::string::npos);
  CHECK(last_line.find("/onnxruntime_src/") == std::string::npos);
  logged = 0;
  auto executor = runtime.executor("picky");
  const std::vector<std::int64_t> bad = {99};
  std::vector<OutputTensor> outputs(1);
  const TensorView inputs[] = {view_of(DType::kInt64, {1, 1}, bad)};
  CHECK_FALSE(executor->run(inputs, 1, outputs).ok());
  CHECK(logged == 0);
  set_log_sink(nullptr);
}
