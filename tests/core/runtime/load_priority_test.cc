// Loading stands back behind serving, and what serves later does not.

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "runtime/fixture.h"
#include "runtime/ort/ort_library.h"
#include "runtime/ort/ort_session.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

int niceness_of(int thread) { return ::getpriority(PRIO_PROCESS, static_cast<::id_t>(thread)); }

std::vector<int> all_nicenesses() {
  std::vector<int> out;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
    out.push_back(niceness_of(std::stoi(entry.path().filename().string())));
  }
  return out;
}

// What ONNX Runtime's own calls see.
int during_create = -1;
int during_release = -1;
decltype(abi::Functions::release_session) real_release = nullptr;
decltype(abi::Functions::create_session) real_create = nullptr;
decltype(abi::Functions::create_session_from_array) real_create_from_array = nullptr;

abi::Error* watched_create(const abi::Env* env, const char* path,
                           const abi::SessionOptions* options, abi::Session** out) {
  during_create = niceness_of(::gettid());
  return real_create(env, path, options, out);
}
abi::Error* watched_create_from_array(const abi::Env* env, const void* model, std::size_t bytes,
                                      const abi::SessionOptions* options, abi::Session** out) {
  during_create = niceness_of(::gettid());
  return real_create_from_array(env, model, bytes, options, out);
}

void watched_release(abi::Session* session) {
  during_release = niceness_of(::gettid());
  real_release(session);
}

}  // namespace

TEST_CASE("only the thread that loads is nicer, and only meanwhile") {
  auto opened = open_table(library_path());
  REQUIRE(opened);
  abi::Functions functions = opened->functions;
  real_create = functions.create_session;
  functions.create_session = &watched_create;
  real_create_from_array = functions.create_session_from_array;
  functions.create_session_from_array = &watched_create_from_array;
  real_release = functions.release_session;
  functions.release_session = &watched_release;
  auto created = Library::create(functions, opened->version, 0);
  REQUIRE(created);
  const std::shared_ptr<OrtLibrary> library = *created;
  Pool pool(cpu_device(), {});
  OrtOptions options;
  options.pool = &pool;
  options.intra_op_threads = 4;
  std::thread([] {}).join();  // with the first, a sanitizer starts one of its own
  const int ours = niceness_of(::gettid());
  const std::size_t threads_before = all_nicenesses().size();
  for (const int niceness : {0, 7}) {
    options.load_niceness = niceness;
    during_create = during_release = -1;
    auto runner = load_model(library, model_path("heavy"), options);
    REQUIRE(runner);
    CHECK(during_create == std::min(ours + niceness, 19));
    const auto now = all_nicenesses();
    CHECK(now.size() == threads_before + 3);  // the session's own, beside the caller
    CHECK(std::ranges::all_of(now, [&](int each) { return each == ours; }));
    // And they work.
    auto executor = Runtime::executor_of(**runner);
    const std::vector<float> row(256, 1);
    const TensorView inputs[] = {floats({1, 256}, row)};
    std::vector<OutputTensor> outputs(1);
    CHECK(executor->run(inputs, 1, outputs).ok());
    // It goes as it came.
    outputs.clear();
    executor.reset();
    CHECK(during_release == -1);
    runner->reset();
    CHECK(during_release == std::min(ours + niceness, 19));
    CHECK(all_nicenesses().size() == threads_before);
  }
}

TEST_CASE("a model that cannot be loaded leaves no thread behind") {
  Runtime runtime;
  OrtOptions options = runtime.options();
  options.load_niceness = 7;
  options.intra_op_threads = 4;
  const std::size_t before = all_nicenesses().size();
  CHECK(load_model(runtime.library, model_path("heavy") + ".none", options).error().code() ==
        Code::kNotFound);
  CHECK(load_model(runtime.library, "/proc/self/exe", options).error().code() ==
        Code::kInvalidArgument);
  CHECK(all_nicenesses().size() == before);
}
