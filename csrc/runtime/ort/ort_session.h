#pragma once

#include <memory>
#include <string>

#include "base/quiet_work.h"
#include "runtime/ort/ort_library.h"
#include "tensor/signature.h"

namespace servolley::ort {

// One session with its weights, shared by the runner and its executors. When the last of them goes,
// the memory goes back to the system.
class LoadedModel {
 public:
  static Result<std::shared_ptr<const LoadedModel>> load(std::shared_ptr<Library> library,
                                                         const std::string& path,
                                                         const OrtOptions& options);
  ~LoadedModel();
  LoadedModel(const LoadedModel&) = delete;
  LoadedModel& operator=(const LoadedModel&) = delete;

  const std::shared_ptr<Library>& library() const { return library_; }
  abi::Session* session() const { return session_.get(); }  // Run is thread-safe
  const Signature& signature() const { return signature_; }
  const OrtOptions& options() const { return options_; }

 private:
  LoadedModel(std::shared_ptr<Library> library, const OrtOptions& options)
      : library_(std::move(library)), options_(options), quiet_(options.load_niceness) {}

  const std::shared_ptr<Library> library_;
  const OrtOptions options_;
  QuietWork quiet_;  // the session's threads are started through it
  Handle<abi::Session> session_;
  Signature signature_;
};

// Adds the execution provider that `device` needs to the session options. FAILED_PRECONDITION if
// the library does not have it.
Status append_provider(const Library& library, DeviceId device, abi::SessionOptions* options);

}  // namespace servolley::ort
