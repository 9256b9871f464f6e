#include "runtime/ort/ort_session.h"

#include <malloc.h>
#include <sys/stat.h>

#include <algorithm>
#include <exception>
#include <mutex>
#include <thread>

#include "base/processors.h"
#include "runtime/ort/external_data.h"
#include "runtime/ort/ort_executor.h"
#include "runtime/ort/ort_lane_executor.h"
#include "runtime/ort/ort_signature.h"

namespace servolley::ort {
namespace {

Status check_file(const std::string& path) {
  struct ::stat info = {};
  if (::stat(path.c_str(), &info) != 0) return not_found("the model file does not exist");
  if (!S_ISREG(info.st_mode)) return invalid_argument("the model is not a regular file");
  return {};
}

// The first release, 1.26, whose threads can be told how long to spin.
constexpr std::uint32_t kSpinDuration = 26;
// Releases before keep arrays that a captured Concat or Split reads in memory that the next run
// writes to, and replays read whatever it has left there.
constexpr std::uint32_t kSafeReplay = 31;

Status configure(const Library& library, const OrtOptions& wanted, bool on_gpu,
                 abi::SessionOptions* options) {
  const abi::Functions& api = library.api();
  const auto take = [&](abi::Error* error) { return library.take(error, Phase::kLoad); };
  // On a GPU there is hardly anything to do for them.
  const int chosen = on_gpu ? 1 : granted_processors();
  const int threads = wanted.intra_op_threads > 0 ? wanted.intra_op_threads : chosen;
  SERVOLLEY_TRY(take(api.set_intra_op_threads(options, threads)));
  SERVOLLEY_TRY(take(api.set_inter_op_threads(options, wanted.inter_op_threads)));
  SERVOLLEY_TRY(take(api.set_execution_mode(options, wanted.parallel_execution ? 1 : 0)));
  SERVOLLEY_TRY(take(api.set_graph_optimization(options, wanted.graph_optimization)));
  SERVOLLEY_TRY(take(wanted.memory_arena ? api.enable_memory_arena(options)
                                         : api.disable_memory_arena(options)));
  SERVOLLEY_TRY(take(wanted.memory_pattern ? api.enable_memory_pattern(options)
                                           : api.disable_memory_pattern(options)));
  const auto set = [&](const char* key, const char* value) {
    return take(api.add_session_config(options, key, value));
  };
  // Older releases know no limit, and would spin without one.
  const bool briefly =
      !wanted.allow_spinning && wanted.spin_us > 0 && !on_gpu && library.reaches(kSpinDuration);
  SERVOLLEY_TRY(
      set("session.intra_op.allow_spinning", wanted.allow_spinning || briefly ? "1" : "0"));
  SERVOLLEY_TRY(set("session.inter_op.allow_spinning", wanted.allow_spinning ? "1" : "0"));
  if (briefly) {
    const std::string spin_us = std::to_string(wanted.spin_us);
    SERVOLLEY_TRY(set("session.intra_op.spin_duration_us", spin_us.c_str()));
    SERVOLLEY_TRY(set("session.force_spinning_stop", "1"));  // with the last run under way
  }
  if (library.shares_arena() && wanted.memory_arena) {
    // Weights come from outside the arena: they are no client's doing and go back when unloaded.
    for (const char* key :
         {"session.use_env_allocators", "session.use_device_allocator_for_initializers"}) {
      SERVOLLEY_TRY(set(key, "1"));
    }
  }
  return {};
}

// Up to this size, a session is made of the bytes that were checked, so that they are read once and
// nobody can put others in between. Above it, one copy more than the runtime's own would be too
// much.
constexpr std::size_t kReadOnceBytes = std::size_t{256} << 20;

Status open_session(const Library& library, const std::string& path,
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

// What a session on a broken device needs. Releasing it would call a driver that answers nothing
// but errors, and ONNX Runtime throws some of those (of captured graphs, streams) in destructors,
// which ends the process. The device keeps its memory until then anyway.
struct LostSession {
  std::shared_ptr<Library> library;
  std::unique_ptr<GpuSession> gpu;
  Handle<abi::Session> session;
};

void keep_for_good(LostSession lost) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<LostSession>;  // not even when the process ends
  const std::lock_guard lock(mutex);
  kept->push_back(std::move(lost));
}

// The same model on the CPU or on each of several GPUs.
class OrtRunner final : public Runner {
 public:
  explicit OrtRunner(std::vector<std::shared_ptr<const LoadedModel>> models)
      : models_(std::move(models)) {
    for (const auto& model : models_) {
      if (model->gpu()) devices_.push_back(model->gpu()->gpu.device->id());
    }
  }

  const Signature& signature() const override { return models_.front()->signature(); }
  std::string_view platform() const override { return "onnxruntime_onnx"; }
  std::span<const DeviceId> devices() const override { return devices_; }
  bool takes_device_memory() const override {
    return !models_.empty() && std::all_of(models_.begin(), models_.end(), all_on_device);
  }
  bool gives_device_memory() const override {
    return !models_.empty() && std::all_of(models_.begin(), models_.end(), [](const auto& model) {
      return model->gpu() && model->gpu()->places_known;
    });
  }
  Result<std::unique_ptr<Executor>> create_executor() override {
    return OrtExecutor::create(models_.front());
  }
  Result<std::unique_ptr<LaneExecutor>> create_lanes(std::size_t device,
                                                     const LaneOptions& options) override {
    return OrtLaneExecutor::create(models_[device], options);
  }
  GraphUse graphs() const override {
    if (devices_.empty() || !models_.front()->options().cuda_graphs) return GraphUse::kOff;
    const auto on_all = [&](std::atomic<bool> GpuSession::*what) {
      return std::all_of(models_.begin(), models_.end(), [what](const auto& model) {
        return (model->gpu()->*what).load(std::memory_order_relaxed);
      });
    };
    if (!on_all(&GpuSession::graphs)) return GraphUse::kRefused;
    return on_all(&GpuSession::captured) ? GraphUse::kOn : GraphUse::kNotYet;
  }

 private:
  // Whether the host never has to look into an input.
  static bool all_on_device(const std::shared_ptr<const LoadedModel>& model) {
    if (!model->gpu() || !model->gpu()->places_known) return false;
    const Signature& signature = model->signature();
    for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
      if (model->gpu()->host_inputs[i] || signature.inputs[i].dtype == DType::kBytes) return false;
    }
    return std::none_of(signature.outputs.begin(), signature.outputs.end(), [&](const auto& spec) {
      return signature.input_index(spec.name).has_value();
    });
  }

  const std::vector<std::shared_ptr<const LoadedModel>> models_;
  std::vector<DeviceId> devices_;
};

}  // namespace

Result<std::shared_ptr<const LoadedModel>> LoadedModel::load(std::shared_ptr<Library> library,
                                                             const std::string& path,
                                                             const OrtOptions& options,
                                                             const OrtGpu* gpu) {
  if (!options.pool) return internal_error("OrtOptions::pool is required");
  SERVOLLEY_TRY(check_file(path));

  std::shared_ptr<LoadedModel> model(new LoadedModel(std::move(library), options));
  if (gpu) SERVOLLEY_TRY(model->open_gpu(*gpu));
  bool graphs = gpu && options.cuda_graphs;
  if (graphs && !model->library_->reaches(kSafeReplay)) {
    log(abi::kWarning, options.name + ": no CUDA graphs: before ONNX Runtime 1." +
                           std::to_string(kSafeReplay) +
                           " a batch of another size may spoil what is replayed");
    graphs = false;
  }
  Status status = model->create_session(path, graphs);
  if (graphs && !status.ok()) {
    const Status plain = model->create_session(path, false);
    if (plain.ok()) log(abi::kWarning, options.name + ": no CUDA graphs: " + status.message());
    status = plain;
  } else if (graphs) {
    model->gpu_->graphs = model->gpu_->made_with_graphs = true;
  }
  SERVOLLEY_TRY(status);
  auto signature = read_signature(*model->library_, model->session_.get());
  if (!signature) return std::move(signature).error();
  model->signature_ = std::move(*signature);
  if (gpu) SERVOLLEY_TRY(model->find_places());
  return std::shared_ptr<const LoadedModel>(std::move(model));
}

Status LoadedModel::create_session(const std::string& path, bool graphs) {
  const abi::Functions& api = library_->api();
  const auto take = [&](abi::Error* error) { return library_->take(error, Phase::kLoad); };
  abi::SessionOptions* raw_options = nullptr;
  SERVOLLEY_TRY(take(api.create_session_options(&raw_options)));
  const auto session_options = own(raw_options, api.release_session_options);
  SERVOLLEY_TRY(configure(*library_, options_, gpu_ != nullptr, raw_options));
  if (gpu_) SERVOLLEY_TRY(append_providers(*library_, options_, *gpu_, graphs, raw_options));
  if (options_.load_niceness > 0) {
    SERVOLLEY_TRY(start_threads_outside(*library_, quiet_, raw_options));
  }
  abi::Session* raw_session = nullptr;
  Status status;
  quiet_.run([&] {
    if (gpu_) status = gpu_->gpu.device->make_current();  // it may be a thread of its own
    if (status.ok()) status = open_session(*library_, path, raw_options, &raw_session);
  });
  SERVOLLEY_TRY(std::move(status));
  session_ = own(raw_session, api.release_session);
  return {};
}

Status LoadedModel::open_gpu(const OrtGpu& gpu) {
  SERVOLLEY_TRY(gpu.device->make_current());
  auto compute = gpu.device->create_stream();
  if (!compute) return std::move(compute).error();
  gpu_ = std::make_unique<GpuSession>();
  gpu_->gpu = gpu;
  gpu_->compute = std::move(*compute);
  abi::MemoryInfo* raw = nullptr;
  SERVOLLEY_TRY(library_->take(
      library_->api().create_memory_info(abi::kCudaMemory, abi::kDeviceAllocator,
                                         gpu.device->id().index, abi::kDefaultMemory, &raw),
      Phase::kLoad));
  gpu_->memory = own(raw, library_->api().release_memory_info);
  return {};
}

Status LoadedModel::find_places() {
  const abi::Functions& api = library_->api();
  const auto take = [&](abi::Error* error) { return library_->take(error, Phase::kLoad); };
  const auto find = [&](const std::vector<TensorSpec>& specs, auto query,
                        std::vector<bool>& on_host) -> Status {
    std::vector<const abi::MemoryInfo*> places(specs.size(), nullptr);
    if (query) SERVOLLEY_TRY(take(query(session_.get(), places.data(), places.size())));
    for (std::size_t i = 0; i < specs.size(); ++i) {
      const char* name = abi::kCudaMemory;
      if (places[i]) SERVOLLEY_TRY(take(api.memory_info_name(places[i], &name)));
      on_host.push_back(specs[i].dtype == DType::kBytes ||
                        std::string_view(name) != abi::kCudaMemory);
    }
    return {};
  };
  SERVOLLEY_TRY(find(signature_.inputs, api.input_memory, gpu_->host_inputs));
  SERVOLLEY_TRY(find(signature_.outputs, api.output_memory, gpu_->host_outputs));
  gpu_->places_known = api.input_memory != nullptr;
  return {};
}

LoadedModel::~LoadedModel() {
  quiet_.run([this] {
    if (gpu_ && !gpu_->gpu.device->make_current().ok()) {
      keep_for_good({.library = library_, .gpu = std::move(gpu_), .session = std::move(session_)});
    }
    session_.reset();
    if (kept_for() > 0) library_->large_runs().note(Clock::now());
    // What the lanes had is free by now, of sizes that other models may have no use for.
    if (gpu_) gpu_->gpu.memory->trim();
    // The C library keeps freed memory for itself otherwise; unloading is rare and may take the
    // time.
    ::malloc_trim(0);
  });
}

Result<std::shared_ptr<Runner>> load_model(std::shared_ptr<OrtLibrary> library,
                                           const std::string& path, const OrtOptions& options) {
  // There is one implementation of OrtLibrary.
  const auto ours = std::static_pointer_cast<Library>(std::move(library));
  std::vector<std::shared_ptr<const LoadedModel>> models;
  for (std::size_t i = 0; i < std::max<std::size_t>(options.gpus.size(), 1); ++i) {
    auto model =
        LoadedModel::load(ours, path, options, options.gpus.empty() ? nullptr : &options.gpus[i]);
    if (!model) return std::move(model).error();
    models.push_back(std::move(*model));
  }
  return std::shared_ptr<Runner>(std::make_shared<OrtRunner>(std::move(models)));
}

}  // namespace servolley::ort
