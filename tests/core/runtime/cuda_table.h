#pragma once

// ONNX Runtime's function table with a CUDA provider that this library does not have. Sessions
// compute on the CPU, but a run is only queued: the stand-in driver's stream carries it out, as a
// GPU would.

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "client.h"
#include "runtime/fixture.h"
#include "runtime/ort/ort_dtype.h"
#include "runtime/ort/ort_library.h"

namespace servolley::ort::testing {

class CudaTable {
 public:
  explicit CudaTable(servolley::testing::Standin& standin) : standin_(standin) {
    auto opened = open_table(library_path());
    REQUIRE(opened);
    real_ = opened->functions;
    version_ = opened->version;
    current_ = this;
  }
  ~CudaTable() { current_ = nullptr; }
  CudaTable(const CudaTable&) = delete;
  CudaTable& operator=(const CudaTable&) = delete;

  // Where the runtime puts what it makes by itself.
  Pool* device_memory = nullptr;

  // --- what a test may say ---
  // As a run whose outputs get their shapes from the data, or a library that waits: it returns when
  // the work is done, with its error.
  std::atomic<bool> waits{false};
  std::atomic<int> kernel_us{-1};  // how long a run takes; -1: as the stand-in is configured
  std::set<std::size_t> host_inputs;
  bool tells_places = true;
  bool refuse_graphs = false;  // sessions that are made with graphs
  enum class Capture {
    kWorks,
    kRefused,  // before it begins
    kLeftOpen,
    kStoredPartly,  // an error, and from then on the graph is replayed with nothing in it
  };
  Capture capture = Capture::kWorks;
  std::function<void()> while_capturing;  // once
  std::atomic<int> failing_runs{0};       // runs without a graph that fail from now on
  std::atomic<int> failing_replays{0};
  // --- what it may ask ---
  std::map<std::string, std::string> cuda_options;
  std::map<std::string, std::string> tensorrt_options;
  std::vector<std::string> appended;
  std::vector<int> graph_runs;   // ids, -1 where there was to be no graph
  std::atomic<int> bindings{0};  // inputs and outputs that were bound
  std::atomic<int> failed{0};    // queued runs that ended in an error
  std::atomic<int> released{0};  // sessions

  // Of the release that is there, or as if it were another.
  std::shared_ptr<OrtLibrary> library(const std::string& release = "") {
    abi::Functions f = real_;
    f.available_providers = [](char*** names, int* count) -> abi::Error* {
      static char cpu[] = "CPUExecutionProvider";
      static char cuda[] = "CUDAExecutionProvider";
      static char tensorrt[] = "TensorrtExecutionProvider";
      static char* all[] = {tensorrt, cuda, cpu};
      *names = all;
      *count = 3;
      return nullptr;
    };
    f.error_code = [](const abi::Error* error) {
      const std::lock_guard lock(current_->mutex_);
      return current_->failures_.contains(error) ? int{abi::kFail}
                                                 : current_->real_.error_code(error);
    };
    f.error_message = [](const abi::Error* error) {
      const std::lock_guard lock(current_->mutex_);
      const auto made = current_->failures_.find(error);
      return made != current_->failures_.end() ? made->second
                                               : current_->real_.error_message(error);
    };
    f.release_error = [](abi::Error* error) {
      {
        const std::lock_guard lock(current_->mutex_);
        current_->failures_.erase(error);
      }
      current_->real_.release_error(error);
    };
    f.release_providers = [](char**, int) -> abi::Error* { return nullptr; };
    f.create_cuda_options = [](abi::CudaOptions** out) -> abi::Error* {
      *out = reinterpret_cast<abi::CudaOptions*>(current_);
      return nullptr;
    };
    f.release_cuda_options = [](abi::CudaOptions*) {};
    f.update_cuda_options = [](abi::CudaOptions*, const char* const* keys,
                               const char* const* values, std::size_t count) -> abi::Error* {
      for (std::size_t i = 0; i < count; ++i) current_->cuda_options[keys[i]] = values[i];
      return nullptr;
    };
    f.append_cuda = [](abi::SessionOptions*, const abi::CudaOptions*) -> abi::Error* {
      current_->appended.emplace_back("cuda");
      return nullptr;
    };
    f.create_tensorrt_options = [](abi::TensorRtOptions** out) -> abi::Error* {
      *out = reinterpret_cast<abi::TensorRtOptions*>(current_);
      return nullptr;
    };
    f.release_tensorrt_options = [](abi::TensorRtOptions*) {};
    f.update_tensorrt_options = [](abi::TensorRtOptions*, const char* const* keys,
                                   const char* const* values, std::size_t count) -> abi::Error* {
      for (std::size_t i = 0; i < count; ++i) current_->tensorrt_options[keys[i]] = values[i];
      return nullptr;
    };
    f.append_tensorrt = [](abi::SessionOptions*, const abi::TensorRtOptions*) -> abi::Error* {
      current_->appended.emplace_back("tensorrt");
      return nullptr;
    };
    f.create_memory_info = [](const char* name, int, int, int, abi::MemoryInfo** out) {
      CHECK(std::string(name) == "Cuda");
      abi::Error* error =
          current_->real_.create_cpu_memory_info(abi::kDeviceAllocator, abi::kDefaultMemory, out);
      current_->on_cuda_.insert(*out);
      return error;
    };
    f.memory_info_name = [](const abi::MemoryInfo* info, const char** name) -> abi::Error* {
      if (!current_->on_cuda_.contains(info)) return current_->real_.memory_info_name(info, name);
      *name = "Cuda";
      return nullptr;
    };
    f.input_memory = !tells_places
                         ? nullptr
                         : +[](const abi::Session* session, const abi::MemoryInfo** places,
                               std::size_t count) -> abi::Error* {
      abi::Error* error = current_->real_.input_memory(session, places, count);
      for (std::size_t i = 0; i < count; ++i) {
        if (!current_->host_inputs.contains(i)) places[i] = *current_->on_cuda_.begin();
      }
      return error;
    };
    f.output_memory = !tells_places ? nullptr
                                    : +[](const abi::Session*, const abi::MemoryInfo** places,
                                          std::size_t count) -> abi::Error* {
      for (std::size_t i = 0; i < count; ++i) places[i] = *current_->on_cuda_.begin();
      return nullptr;
    };
    f.create_session = [](const abi::Env* env, const char* path, const abi::SessionOptions* options,
                          abi::Session** out) -> abi::Error* {
      CudaTable& self = *current_;
      const bool refused = self.refuses_session();
      abi::Error* error =
          self.real_.create_session(env, refused ? "/nonexistent" : path, options, out);
      if (!error) self.remember(*out);
      return error;
    };
    f.create_session_from_array = [](const abi::Env* env, const void* model, std::size_t bytes,
                                     const abi::SessionOptions* options,
                                     abi::Session** out) -> abi::Error* {
      CudaTable& self = *current_;
      const std::size_t there = self.refuses_session() ? 3 : bytes;
      abi::Error* error = self.real_.create_session_from_array(env, model, there, options, out);
      if (!error) self.remember(*out);
      return error;
    };
    f.release_session = [](abi::Session* session) {
      ++current_->released;
      current_->real_.release_session(session);
    };
    f.add_run_config = [](abi::RunOptions* options, const char* key,
                          const char* value) -> abi::Error* {
      const std::lock_guard lock(current_->mutex_);
      current_->run_options_[options][key] = value;
      return nullptr;
    };
    f.bind_input = [](abi::Binding* binding, const char* name, const abi::Value* value) {
      ++current_->bindings;
      return current_->real_.bind_input(binding, name, value);
    };
    f.bind_output = [](abi::Binding* binding, const char* name, const abi::Value* value) {
      ++current_->bindings;
      return current_->real_.bind_output(binding, name, value);
    };
    f.tensor_data = [](abi::Value* value, void** data) { return current_->on_device(value, data); };
    f.release_value = [](abi::Value* value) {
      {
        const std::lock_guard lock(current_->mutex_);
        current_->made_.erase(value);
      }
      current_->real_.release_value(value);
    };
    f.run_with_binding = [](abi::Session* session, const abi::RunOptions* options,
                            const abi::Binding* binding) {
      return current_->run(session, options, binding);
    };
    auto created = Library::create(f, release.empty() ? version_ : release);
    REQUIRE(created);
    return *created;
  }

 private:
  struct Job {
    CudaTable& table;
    abi::Session* session;
    const abi::RunOptions* options;
    const abi::Binding* binding;
    abi::Error* error = nullptr;
    bool done = false;
    bool waited = false;
  };

  // Once for each session that is made with graphs.
  bool refuses_session() { return refuse_graphs && cuda_options.erase("enable_cuda_graph") > 0; }
  void remember(const abi::Session* session) {
    const std::lock_guard lock(mutex_);
    streams_[session] =
        reinterpret_cast<CUstream_st*>(std::stoull(cuda_options.at("user_compute_stream")));
  }

  abi::Error* run(abi::Session* session, const abi::RunOptions* options,
                  const abi::Binding* binding) {
    CUstream_st* stream = nullptr;
    bool first = false;
    bool nothing = false;
    int graph = -1;
    {
      const std::lock_guard lock(mutex_);
      stream = streams_.at(session);
      auto& config = run_options_.at(options);
      CHECK(config.at("disable_synchronize_execution_providers") == "1");
      if (config.contains("gpu_graph_id")) graph = std::stoi(config["gpu_graph_id"]);
      first = graph >= 0 && !graphs_.contains({session, graph});
      nothing = graph >= 0 && !first && !graphs_[{session, graph}];
      graph_runs.push_back(graph);
    }
    if (graph < 0 && failing_runs > 0) {
      --failing_runs;
      return make_error("CUDA failure 1: invalid argument");
    }
    if (graph >= 0 && !first && failing_replays > 0) {
      --failing_replays;
      return make_error("CUDA failure 1: invalid argument");
    }
    if (first) {
      if (abi::Error* error = captures(session, stream, graph)) return error;
    }
    if (nothing) {
      REQUIRE(standin_.launch(stream, "kernel", nullptr, nullptr, kernel_us) == 0);
      return nullptr;
    }
    // A device that fails carries nothing out any more: the table keeps the jobs, not the stream.
    Job* job = nullptr;
    {
      const std::lock_guard lock(mutex_);
      jobs_.push_back(std::unique_ptr<Job>(new Job{*this, session, options, binding}));
      job = jobs_.back().get();
      job->waited = waits;
    }
    const auto call = [](void* argument) {
      static_cast<Job*>(argument)->table.carry_out(argument);
    };
    if (const int result = standin_.launch(stream, "kernel", call, job, kernel_us)) {
      return make_error(cuda_failure(result));
    }
    if (!job->waited) return nullptr;
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return job->done; });
    return job->error;
  }

  // An output of the runtime's own, moved to where it would be on a GPU.
  abi::Error* on_device(abi::Value* value, void** data) {
    const abi::Functions& api = real_;
    if (abi::Error* error = api.tensor_data(value, data)) return error;
    abi::TensorInfo* info = nullptr;
    REQUIRE_FALSE(api.tensor_info(value, &info));
    TensorView view;
    int type = 0;
    std::size_t rank = 0;
    std::int64_t dims[kMaxRank] = {};
    REQUIRE_FALSE(api.element_type(info, &type));
    REQUIRE_FALSE(api.rank(info, &rank));
    REQUIRE_FALSE(api.dims(info, dims, rank));
    api.release_tensor_info(info);
    for (std::size_t i = 0; i < rank; ++i) view.shape.push_back(dims[i]);
    const std::size_t bytes = *view.shape.byte_count(*from_ort(type));
    auto memory = device_memory->allocate(bytes);
    REQUIRE(memory);
    if (bytes) std::memcpy(standin_.host_address(memory->data()), *data, bytes);
    *data = memory->data();
    const std::lock_guard lock(mutex_);
    made_[value] = std::move(*memory);
    return nullptr;
  }

  void carry_out(void* argument) {
    auto* job = static_cast<Job*>(argument);
    abi::Error* const error = real_.run_with_binding(job->session, job->options, job->binding);
    if (job->waited) {
      const std::lock_guard lock(mutex_);
      job->error = error;
      job->done = true;
      done_.notify_all();
      return;
    }
    if (error) {
      ++failed;
      real_.release_error(error);
    }
  }

  // Records the run, as far as it gets.
  abi::Error* captures(const abi::Session* session, CUstream_st* stream, int graph) {
    if (capture == Capture::kRefused) return make_error("this model cannot be captured");
    if (const int result = standin_.begin_capture(stream)) return make_error(cuda_failure(result));
    if (while_capturing) std::exchange(while_capturing, nullptr)();
    const int queued = standin_.launch(stream, "kernel");
    if (capture == Capture::kLeftOpen) return make_error(cuda_failure(900));
    const int ended = standin_.end_capture(stream);
    if (queued || ended) return make_error(cuda_failure(queued ? queued : ended));
    const std::lock_guard lock(mutex_);
    graphs_[{session, graph}] = capture == Capture::kWorks;
    return capture == Capture::kWorks ? nullptr : make_error_locked(cuda_failure(900));
  }

  static std::string cuda_failure(int code) { return "CUDA failure " + std::to_string(code); }
  // A general failure, as most errors of kernels and of CUDA are.
  abi::Error* make_error(const std::string& message) {
    const std::lock_guard lock(mutex_);
    return make_error_locked(message);
  }
  abi::Error* make_error_locked(const std::string& message) {
    abi::MemoryInfo* none = nullptr;
    abi::Error* error = real_.create_memory_info("no such memory", 0, 0, 0, &none);
    REQUIRE(error != nullptr);
    failures_[error] = messages_.emplace(message).first->c_str();
    return error;
  }

  static inline CudaTable* current_ = nullptr;
  servolley::testing::Standin& standin_;
  abi::Functions real_;
  std::string version_;
  std::mutex mutex_;
  std::condition_variable done_;
  std::set<const abi::MemoryInfo*> on_cuda_;
  std::map<const abi::Value*, Buffer> made_;
  std::map<const abi::Session*, CUstream_st*> streams_;
  std::vector<std::unique_ptr<Job>> jobs_;
  // Those that are stored: whether there is all in them.
  std::map<std::pair<const abi::Session*, int>, bool> graphs_;
  std::map<const abi::Error*, const char*> failures_;
  std::set<std::string> messages_;
  std::map<const abi::RunOptions*, std::map<std::string, std::string>> run_options_;
};

}  // namespace servolley::ort::testing
