#include "runtime/ort/ort_session.h"

#include <malloc.h>
#include <sys/stat.h>

#include <exception>
#include <thread>

#include "runtime/ort/external_data.h"
#include "runtime/ort/ort_executor.h"
#include "runtime/ort/ort_signature.h"

namespace servolley::ort {
namespace {

Status check_file(const std::string& path) {
  struct ::stat info = {};
  if (::stat(path.c_str(), &info) != 0) return not_found("the model file does not exist");
  if (!S_ISREG(info.st_mode)) return invalid_argument("the model is not a regular file");
  return {};
}

Status configure(const Library& library, const OrtOptions& wanted, abi::SessionOptions* options) {
  const abi::Functions& api = library.api();
  const auto take = [&](abi::Error* error) { return library.take(error, Phase::kLoad); };
  const int threads = wanted.intra_op_threads > 0 ? wanted.intra_op_threads : granted_processors();
  SERVOLLEY_TRY(take(api.set_intra_op_threads(options, threads)));
  SERVOLLEY_TRY(take(api.set_inter_op_threads(options, wanted.inter_op_threads)));
  SERVOLLEY_TRY(take(api.set_execution_mode(options, wanted.parallel_execution ? 1 : 0)));
  SERVOLLEY_TRY(take(api.set_graph_optimization(options, wanted.graph_optimization)));
  SERVOLLEY_TRY(take(wanted.memory_arena ? api.enable_memory_arena(options)
                                         : api.disable_memory_arena(options)));
  SERVOLLEY_TRY(take(wanted.memory_pattern ? api.enable_memory_pattern(options)
                                           : api.disable_memory_pattern(options)));
  const char* spinning = wanted.allow_spinning ? "1" : "0";
  for (const char* key : {"session.intra_op.allow_spinning", "session.inter_op.allow_spinning"}) {
    SERVOLLEY_TRY(take(api.add_session_config(options, key, spinning)));
  }
  if (library.shares_arena() && wanted.memory_arena) {
    // Weights come from outside the arena: they are no client's doing and go back when unloaded.
    for (const char* key :
         {"session.use_env_allocators", "session.use_device_allocator_for_initializers"}) {
      SERVOLLEY_TRY(take(api.add_session_config(options, key, "1")));
    }
  }
  return append_provider(library, wanted.device, options);
}

// Up to this size, a session is made of the bytes that were checked, so that they are read once and
// nobody can put others in between. Above it, one copy more than the runtime's own would be too
// much.
constexpr std::size_t kReadOnceBytes = std::size_t{256} << 20;

Status create_session(const Library& library, const std::string& path,
                      const abi::SessionOptions* options, abi::Session** session) {
  const abi::Functions& api = library.api();
  auto file = read_model_file(path);
  if (!file) return std::move(file).error();
  if (file->has_external_data || file->content.bytes().size() > kReadOnceBytes) {
    file->content = {};  // the runtime needs the path to find the data, and reads by itself
    return library.take(api.create_session(library.env(), path.c_str(), options, session),
                        Phase::kLoad);
  }
  const auto bytes = file->content.bytes();
  return library.take(
      api.create_session_from_array(library.env(), bytes.data(), bytes.size(), options, session),
      Phase::kLoad);
}

// The session's threads outlive its loading: they are started outside of the quiet work, whose
// priority they would inherit for good.
abi::Thread* start_thread(void* quiet, abi::ThreadMain main, void* parameter) {
  std::thread* thread = nullptr;
  static_cast<QuietWork*>(quiet)->outside([&] {
    try {
      thread = new std::thread(main, parameter);
    } catch (const std::exception&) {
      // ONNX Runtime reports the missing thread.
    }
  });
  return reinterpret_cast<abi::Thread*>(thread);
}

void join_thread(abi::Thread* handle) {
  const std::unique_ptr<std::thread> thread(reinterpret_cast<std::thread*>(handle));
  thread->join();
}

Status start_threads_outside(const Library& library, QuietWork& quiet,
                             abi::SessionOptions* options) {
  const abi::Functions& api = library.api();
  const auto take = [&](abi::Error* error) { return library.take(error, Phase::kLoad); };
  SERVOLLEY_TRY(take(api.set_thread_start(options, &start_thread)));
  SERVOLLEY_TRY(take(api.set_thread_start_argument(options, &quiet)));
  return take(api.set_thread_join(options, &join_thread));
}

class OrtRunner final : public Runner {
 public:
  explicit OrtRunner(std::shared_ptr<const LoadedModel> model) : model_(std::move(model)) {}

  const Signature& signature() const override { return model_->signature(); }
  std::string_view platform() const override { return "onnxruntime_onnx"; }
  Result<std::unique_ptr<Executor>> create_executor() override {
    return OrtExecutor::create(model_);
  }

 private:
  const std::shared_ptr<const LoadedModel> model_;
};

}  // namespace

Result<std::shared_ptr<const LoadedModel>> LoadedModel::load(std::shared_ptr<Library> library,
                                                             const std::string& path,
                                                             const OrtOptions& options) {
  if (!options.pool) return internal_error("OrtOptions::pool is required");
  SERVOLLEY_TRY(check_file(path));

  std::shared_ptr<LoadedModel> model(new LoadedModel(std::move(library), options));
  const Library& lib = *model->library_;
  const abi::Functions& api = lib.api();
  abi::SessionOptions* raw_options = nullptr;
  SERVOLLEY_TRY(lib.take(api.create_session_options(&raw_options), Phase::kLoad));
  const auto session_options = own(raw_options, api.release_session_options);
  SERVOLLEY_TRY(configure(lib, options, raw_options));
  if (options.load_niceness > 0) {
    SERVOLLEY_TRY(start_threads_outside(lib, model->quiet_, raw_options));
  }

  abi::Session* raw_session = nullptr;
  Status status;
  model->quiet_.run([&] { status = create_session(lib, path, raw_options, &raw_session); });
  SERVOLLEY_TRY(std::move(status));
  model->session_ = own(raw_session, api.release_session);
  auto signature = read_signature(lib, raw_session);
  if (!signature) return std::move(signature).error();
  model->signature_ = std::move(*signature);
  return std::shared_ptr<const LoadedModel>(std::move(model));
}

LoadedModel::~LoadedModel() {
  session_.reset();
  // The C library keeps freed memory for itself otherwise; unloading is rare and may take the time.
  ::malloc_trim(0);
}

Result<std::shared_ptr<Runner>> load_model(std::shared_ptr<OrtLibrary> library,
                                           const std::string& path, const OrtOptions& options) {
  // There is one implementation of OrtLibrary.
  auto model =
      LoadedModel::load(std::static_pointer_cast<Library>(std::move(library)), path, options);
  if (!model) return std::move(model).error();
  return std::shared_ptr<Runner>(std::make_shared<OrtRunner>(std::move(*model)));
}

}  // namespace servolley::ort
