#pragma once

#include <atomic>
#include <memory>
#include <shared_mutex>
#include <string>
#include <vector>

#include "base/quiet_work.h"
#include "runtime/ort/ort_library.h"
#include "tensor/signature.h"

namespace servolley::ort {

// What a session on a GPU has besides.
struct GpuSession {
  OrtGpu gpu;
  cuda::Stream compute;  // everything that the session computes, in order; outlives the session
  Handle<abi::MemoryInfo> memory;
  // Which inputs the session wants, and which outputs it has, in host memory: at least the strings.
  // Older libraries do not tell of others, and copy those themselves.
  std::vector<bool> host_inputs;
  std::vector<bool> host_outputs;
  bool places_known = false;
  bool made_with_graphs = false;
  // Whether batches are captured as graphs. Turns false when one cannot be.
  std::atomic<bool> graphs{false};
  // The id that the next graph gets. None is used twice: what the runtime has stored under one is
  // replayed with the addresses of then, and stays when the lanes go.
  std::atomic<int> next_graph{0};
  std::atomic<bool> captured{false};  // at least one has been
  // While one thread captures, no other may use the stream. Only where there are graphs.
  std::shared_mutex capturing;
};

// One session with its weights, shared by the runner and its executors. When the last of them goes,
// the memory goes back to the system.
class LoadedModel {
 public:
  // On `gpu`, or on the CPU if there is none.
  static Result<std::shared_ptr<const LoadedModel>> load(std::shared_ptr<Library> library,
                                                         const std::string& path,
                                                         const OrtOptions& options,
                                                         const OrtGpu* gpu = nullptr);
  ~LoadedModel();
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;

  const std::shared_ptr<Library>& library() const { return library_; }
  abi::Session* session() const { return session_.get(); }  // Run is thread-safe
  const Signature& signature() const { return signature_; }
  const OrtOptions& options() const { return options_; }
  // Null on the CPU.
  GpuSession* gpu() const { return gpu_.get(); }

  // The most bytes of tensors with which a run is expected: what the arena has grown by for it is
  // kept while the model is loaded. Giving it back would only mean that the next full batch after a
  // pause waits for the system to clear all of it again: half a gigabyte and a second for 64 images
  // and resnet50. As models share the arena, what is kept is the most that runs need at once.
  std::size_t kept_for() const { return kept_for_.load(std::memory_order_relaxed); }
  void keep_for(std::size_t bytes) const {
    std::size_t known = kept_for();
    while (known < bytes &&
           !kept_for_.compare_exchange_weak(known, bytes, std::memory_order_relaxed)) {
    }
  }

 private:
  LoadedModel(std::shared_ptr<Library> library, const OrtOptions& options)
      : library_(std::move(library)), options_(options), quiet_(options.load_niceness) {}

  Status open_gpu(const OrtGpu& gpu);
  Status create_session(const std::string& path, bool graphs);
  Status find_places();

  const std::shared_ptr<Library> library_;
  const OrtOptions options_;
  QuietWork quiet_;                  // the session's threads are started through it
  std::unique_ptr<GpuSession> gpu_;  // outlives the session
  Handle<abi::Session> session_;
  Signature signature_;
  mutable std::atomic<std::size_t> kept_for_{0};
};

// Adds the execution providers for a GPU to the session options. FAILED_PRECONDITION if the library
// does not have them.
Status append_providers(const Library& library, const OrtOptions& wanted, const GpuSession& gpu,
                        bool graphs, abi::SessionOptions* options);

}  // namespace servolley::ort
