#pragma once

// runtime [layer 4]: runs one batch of bound tensors. One folder per runtime; the engine knows only
// this header, so that every thread of it is tested with a fake runner.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/status.h"
#include "device/device.h"
#include "memory/buffer.h"
#include "tensor/signature.h"
#include "tensor/tensor_view.h"

namespace servolley {

// One output of a run. `view` lies in `owner`: pooled memory that was bound before the run, or
// memory of the runtime that lives as long as its last lease.
struct OutputTensor {
  TensorView view;
  Buffer owner;
  // By request, whether its rows lie where they were wanted. Where that was a target of the launch
  // they are not in `view`, which has no data if they all are. Empty: none are.
  std::vector<bool> delivered{};

  bool delivered_to(std::size_t request) const {
    return request < delivered.size() && delivered[request];
  }
};

// What one instance runs batches with. Belongs to one thread at a time.
class Executor {
 public:
  virtual ~Executor() = default;
  // Runs the model once. `inputs` follow the signature's order; `outputs` (one per output of the
  // signature) are filled. `rows` is the batch size where the signature is batched, else 0.
  // INVALID_ARGUMENT if the runtime blames the inputs, RESOURCE_EXHAUSTED if memory ran out,
  // TOO_LARGE if there could never be enough of it, INTERNAL otherwise. On an error no output is
  // filled.
  virtual Status run(std::span<const TensorView> inputs, std::int64_t rows,
                     std::span<OutputTensor> outputs) = 0;
  // While it is on, runs show what others will be like: memory that they make the runtime take is
  // not given back for as long as the model is loaded.
  virtual void rehearse(bool /*on*/) {}
};

// One request's part of one input of a batch.
struct InputPart {
  TensorView view;
  // In page-locked host memory: a device reads it where it lies. From kPinnedFromBytes on nobody
  // else may where Runner::takes_device_memory(): it may be a client's.
  bool pinned = false;
  // In memory of the device that the batch is launched on: copied there, or bound as it is. Only
  // where Runner::takes_device_memory().
  bool on_device = false;
};

// Where one request wants its part of one output: in memory of the device that its batch is
// launched on, or in page-locked host memory, which only the device may write to. Nowhere, or what
// is too small for it: in host memory of ours.
struct OutputPart {
  std::byte* data = nullptr;
  std::size_t capacity = 0;
  bool on_host = false;
};

// A batch on its way to a device: what each of `requests` brings, input by input in the signature's
// order. One request is the batch as it is; of several the rows follow each other.
struct LaunchedBatch {
  std::span<const InputPart> parts;
  std::size_t requests = 1;
  std::int64_t rows = 0;  // the batch size where the signature is batched, else 0
  // Output by output in the signature's order, as the parts are input by input. Empty: all come to
  // host memory. Only where Runner::gives_device_memory().
  std::span<const OutputPart> targets{};
  // Whether the shapes are those of real requests, so that a graph may be made for them.
  bool may_capture = true;

  std::span<const InputPart> input(std::size_t i) const {
    return parts.subspan(i * requests, requests);
  }
  std::span<const OutputPart> output(std::size_t i) const {
    return targets.empty() ? targets : targets.subspan(i * requests, requests);
  }
  // The input as one tensor of all rows, without its data.
  TensorView outline(std::size_t i) const {
    TensorView view = input(i).front().view;
    if (requests == 1) return view;
    view.shape[0] = rows;
    view.bytes = 0;
    for (const InputPart& part : input(i)) view.bytes += part.view.bytes;
    return view;
  }
};

// Runs batches on a device that works by itself. A lane holds what one batch needs there from its
// launch to its outputs; while one computes, the next goes up and the last comes down.
class LaneExecutor {
 public:
  virtual ~LaneExecutor() = default;
  virtual int lanes() const = 0;
  // Launching thread. Queues everything that the batch needs and returns without waiting for the
  // device. Parts and targets must stay where they are until wait() has returned. On an error, with
  // the meanings of Executor::run, nothing is read any more and the lane is free.
  virtual Status launch(int lane, const LaunchedBatch& batch) = 0;
  // Completing thread, lanes in the order of their launches. Returns when the outputs (one per
  // output of the signature) are where they were wanted, or in host memory and theirs alone; the
  // lane is free then, also after an error.
  virtual Status wait(int lane, std::span<OutputTensor> outputs) = 0;
  // Launching thread. Whether batches are filled up to one of LaneOptions::row_buckets with rows
  // that nobody reads, as far as the runtime can do that.
  virtual void fill_up(bool /*on*/) {}
  // Completing thread, before wait(). Whether that would not have to wait any more, if only to say
  // that something went wrong. Never waits itself.
  virtual bool done(int /*lane*/) { return true; }
  // Any thread. The device has failed for good: nothing launched from now on will be answered.
  virtual bool broken() const = 0;
};

// Whether the work of a batch is recorded once and replayed.
enum class GraphUse : std::uint8_t {
  kOff,  // nobody asked for it
  kOn,
  kRefused,  // asked for, but the model cannot be recorded
  kNotYet,   // asked for, and no batch has been recorded so far
};

struct LaneOptions {
  int lanes = 2;
  // Ascending numbers of rows that a batch may be filled up to, where that makes it faster. None:
  // the model has no batch dimension.
  std::vector<std::int64_t> row_buckets;
};

// A loaded model: weights once per device, any number of executors. Thread-safe.
class Runner {
 public:
  virtual ~Runner() = default;
  virtual const Signature& signature() const = 0;
  // The runtime and the model, as `platform` names it in metadata ("onnxruntime_onnx").
  virtual std::string_view platform() const = 0;
  // The devices that batches are launched on. None: they run on the calling thread.
  virtual std::span<const DeviceId> devices() const { return {}; }
  // Whether inputs may lie in the memory of the device that their batch is launched on.
  virtual bool takes_device_memory() const { return false; }
  // Whether outputs may be wanted in the memory of the device that their batch is launched on.
  virtual bool gives_device_memory() const { return false; }
  // Where there are no devices.
  virtual Result<std::unique_ptr<Executor>> create_executor() = 0;
  // For the device of that place in devices(). Belongs to one launching and one completing thread.
  virtual Result<std::unique_ptr<LaneExecutor>> create_lanes(std::size_t device,
                                                             const LaneOptions& options) {
    (void)device, (void)options;
    return internal_error("this runtime launches nothing");
  }
  virtual GraphUse graphs() const { return GraphUse::kOff; }
};

}  // namespace servolley
