#include "runtime/ort/ort_lane_executor.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <span>
#include <utility>

#include "runtime/ort/ort_strings.h"

namespace servolley::ort {
namespace {

constexpr int kNoGraph = -1;  // ONNX Runtime's word for a run that is not to be captured
// Batches after which a lane gives back memory that all of them have left unused.
constexpr int kLaunchesPerLook = 256;

}  // namespace

Result<std::unique_ptr<LaneExecutor>> OrtLaneExecutor::create(
    std::shared_ptr<const LoadedModel> model, const LaneOptions& options) {
  std::unique_ptr<OrtLaneExecutor> executor(new OrtLaneExecutor(std::move(model)));
  SERVOLLEY_TRY(executor->initialize(options));
  return std::unique_ptr<LaneExecutor>(std::move(executor));
}

Status OrtLaneExecutor::initialize(const LaneOptions& options) {
  const Signature& signature = model_->signature();
  const GpuSession& session = *model_->gpu();
  for (std::size_t i = 0; i < signature.inputs.size(); ++i) {
    const TensorSpec& spec = signature.inputs[i];
    inputs_.push_back({.name = spec.name,
                       .strings = spec.dtype == DType::kBytes,
                       .on_host = session.host_inputs[i]});
  }
  for (std::size_t i = 0; i < signature.outputs.size(); ++i) {
    const TensorSpec& spec = signature.outputs[i];
    outputs_.push_back({.name = spec.name,
                        .plan = OutputPlan(signature, spec),
                        .copy_of_input = signature.input_index(spec.name),
                        .dtype = spec.dtype,
                        .on_host = session.host_outputs[i]});
  }
  places_.resize(inputs_.size());
  const std::int64_t none = 0;
  abi::Value* strings = nullptr;
  SERVOLLEY_TRY(
      take(api().create_tensor(model_->library()->allocator(), &none, 1, abi::kString, &strings)));
  no_strings_ = own(strings, api().release_value);

  cuda::Gpu& device = *gpu().device;
  for (cuda::Stream* stream : {&up_, &down_}) {
    auto made = device.create_stream();
    if (!made) return std::move(made).error();
    *stream = std::move(*made);
  }
  // Without a plan an output has no address, and what has none cannot be replayed.
  const bool planned = std::all_of(outputs_.begin(), outputs_.end(), [](const Output& output) {
    return output.plan.possible() && !output.on_host && !output.copy_of_input;
  });
  const bool on_device = std::none_of(inputs_.begin(), inputs_.end(),
                                      [](const Input& input) { return input.on_host; });
  if (!planned || !on_device) refuse_graphs("not every input and output has a place on the GPU");
  may_fill_up_ = planned && on_device;
  row_sizes_ = options.row_buckets;
  std::vector<std::int64_t> buckets = options.row_buckets;
  if (buckets.empty()) buckets.push_back(0);
  for (int i = 0; i < options.lanes; ++i) {
    Lane& lane = lanes_.emplace_back();
    for (cuda::Event* event : {&lane.uploaded, &lane.computed, &lane.downloaded}) {
      auto made = device.create_event();
      if (!made) return std::move(made).error();
      *event = std::move(*made);
    }
    lane.descents.resize(outputs_.size());
    auto any = make_binding(false, 0);
    if (!any) return std::move(any).error();
    lane.bindings.push_back(std::move(*any));
    if (!session.graphs) continue;
    for (const std::int64_t rows : buckets) {
      auto bucket = make_binding(true, rows);
      if (!bucket) return std::move(bucket).error();
      lane.bindings.push_back(std::move(*bucket));
    }
  }
  return {};
}

Result<OrtLaneExecutor::Binding> OrtLaneExecutor::make_binding(bool graph,
                                                               std::int64_t rows) const {
  Binding binding;
  binding.graph = graph;
  binding.rows = rows;
  auto run_options = make_run_options(graph);
  if (!run_options) return std::move(run_options).error();
  binding.run_options = std::move(*run_options);
  abi::Binding* raw = nullptr;
  SERVOLLEY_TRY(take(api().create_binding(model_->session(), &raw)));
  binding.handle = own(raw, api().release_binding);
  binding.inputs.resize(inputs_.size());
  binding.input_memory.resize(inputs_.size());
  binding.outputs.resize(outputs_.size());
  binding.output_memory.resize(outputs_.size());
  binding.runtime_allocates.resize(outputs_.size());
  // The order of the first binding is the order in which the results come back.
  for (std::size_t i = 0; i < outputs_.size(); ++i) SERVOLLEY_TRY(leave_to_runtime(binding, i));
  return binding;
}

Result<Handle<abi::RunOptions>> OrtLaneExecutor::make_run_options(bool graph) const {
  GpuSession& session = *model_->gpu();
  abi::RunOptions* raw = nullptr;
  SERVOLLEY_TRY(take(api().create_run_options(&raw)));
  auto options = own(raw, api().release_run_options);
  // A failed run is answered with its status; a client must not be able to fill the log with it.
  SERVOLLEY_TRY(take(api().set_run_log_severity(raw, abi::kFatal)));
  // Who waits for the device is the completing thread.
  SERVOLLEY_TRY(take(api().add_run_config(raw, "disable_synchronize_execution_providers", "1")));
  if (session.made_with_graphs) {
    const int id = graph ? session.next_graph.fetch_add(1) : kNoGraph;
    SERVOLLEY_TRY(take(api().add_run_config(raw, "gpu_graph_id", std::to_string(id).c_str())));
  }
  return options;
}

Status OrtLaneExecutor::launch(int number, const LaunchedBatch& batch) {
  Lane& lane = lanes_[static_cast<std::size_t>(number)];
  SERVOLLEY_TRY(gpu().device->make_current());
  if (batch.parts.size() != inputs_.size() * batch.requests) {
    return internal_error("a run needs every input of the signature");
  }
  shrink(lane);
  lane.used = &choose(lane, batch);
  const auto locks = lock_stream(lane);
  Status status = queue_up(lane, batch);
  const bool filled = lane.used->graph || lane.used->rows > 0;
  if (!status.ok() && filled && !broken()) status = retry_plainly(lane, batch, status);
  if (!status.ok()) {
    settle(lane);
    (void)let_go(lane).ok();
  }
  return status;
}

void OrtLaneExecutor::shrink(Lane& lane) {
  // Nobody replays their graphs any more.
  if (lane.bindings.size() > 1 && !model_->gpu()->graphs) {
    lane.bindings.erase(lane.bindings.begin() + 1, lane.bindings.end());
  }
  if (++lane.launches < kLaunchesPerLook) return;
  lane.launches = 0;
  // The buckets keep theirs: their graphs know the addresses.
  Binding& any = lane.bindings.front();
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (any.input_memory[i].shrink()) any.inputs[i].value.reset();
  }
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (any.output_memory[i].shrink()) any.outputs[i].value.reset();
  }
  (void)lane.up.shrink();
  (void)lane.down.shrink();
}

Status OrtLaneExecutor::queue_up(Lane& lane, const LaunchedBatch& batch) {
  lane.run_failed = false;
  SERVOLLEY_TRY(outline(*lane.used, batch));
  SERVOLLEY_TRY(upload(lane, batch));
  SERVOLLEY_TRY(bind_outputs(lane, batch));
  Status status = run(lane);
  // A graph needs the addresses; what fails with one is tried without it anyway.
  if (!lane.used->graph && lane.used->rows == 0 && plans_hold_ &&
      may_be_bound_shape_mismatch(status) && !broken()) {
    plans_hold_ = false;
    status = bind_outputs(lane, batch);
    if (status.ok()) status = run(lane);
    plans_hold_ = !status.ok();  // the plans were not to blame
    if (!plans_hold_) refuse_graphs("its outputs have other shapes than it declares");
  }
  SERVOLLEY_TRY(status);
  SERVOLLEY_TRY(collect(lane));
  return download(lane, batch);
}

Status OrtLaneExecutor::outline(const Binding& binding, const LaunchedBatch& batch) {
  views_.clear();
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    TensorView view = batch.outline(i);
    const auto expected = view.shape.byte_count(view.dtype);
    if (!inputs_[i].strings && (!expected || *expected != view.bytes)) {
      return invalid_argument("input '" + inputs_[i].name + "' has " + std::to_string(view.bytes) +
                              " bytes, which does not fit its shape " + view.shape.to_string());
    }
    if (binding.rows > 0) {
      view.shape[0] = binding.rows;
      view.bytes = view.bytes / static_cast<std::size_t>(batch.rows) *
                   static_cast<std::size_t>(binding.rows);
    }
    views_.push_back(view);
  }
  return {};
}

Status OrtLaneExecutor::leave_to_runtime(Binding& binding, std::size_t i) const {
  binding.runtime_allocates[i] = true;
  binding.outputs[i].value.reset();
  const abi::MemoryInfo* memory =
      outputs_[i].on_host ? model_->library()->cpu_memory() : model_->gpu()->memory.get();
  return take(api().bind_output_to_device(binding.handle.get(), outputs_[i].name.c_str(), memory));
}

Status OrtLaneExecutor::run(Lane& lane) {
  Binding& binding = *lane.used;
  lane.queued.compute = true;
  Status status = take(
      api().run_with_binding(model_->session(), binding.run_options.get(), binding.handle.get()));
  lane.run_failed = !status.ok();
  if (status.ok()) {
    if (binding.graph) {
      binding.captured = true;
      failed_captures_ = 0;
      model_->gpu()->captured = true;
    }
    return status;
  }
  // First: while a stream captures, every other look at the device fails.
  if (binding.graph && !binding.captured) SERVOLLEY_TRY(end_capture(binding));
  if (status.code() == Code::kInternal) SERVOLLEY_TRY(gpu().device->probe());
  return status;
}

bool OrtLaneExecutor::done(int number) {
  Lane& lane = lanes_[static_cast<std::size_t>(number)];
  const auto done = lane.downloaded.done();
  if (done && !*done) return false;
  lane.seen = done ? Status() : done.error();
  return true;
}

Status OrtLaneExecutor::wait(int number, std::span<OutputTensor> outputs) {
  Lane& lane = lanes_[static_cast<std::size_t>(number)];
  const auto seen = std::exchange(lane.seen, {});
  Status status = seen ? *seen : lane.downloaded.wait();
  if (!status.ok()) {
    // Not reached, for all that is known: the device may be writing to the outputs.
    std::shared_lock<std::shared_mutex> together;
    if (model_->gpu()->made_with_graphs) together = std::shared_lock(model_->gpu()->capturing);
    settle(lane);
  }
  for (std::size_t i = 0; status.ok() && i < outputs_.size(); ++i) {
    Descent& descent = lane.descents[i];
    OutputTensor& tensor = descent.tensor;
    if (descent.staged) {
      std::memcpy(tensor.owner.data(), lane.down.data() + *descent.staged, tensor.view.bytes);
    } else if (descent.value && !descent.from) {
      status = adopt(model_, outputs_[i].name, std::move(descent.value), tensor);
    }
    outputs[i] = std::move(tensor);
  }
  const Status released = let_go(lane);
  if (status.ok()) status = released;
  if (!status.ok()) {
    for (OutputTensor& output : outputs) output = {};
  }
  return status;
}

Status OrtLaneExecutor::let_go(Lane& lane) const {
  for (Descent& descent : lane.descents) descent = {};
  lane.queued = {};
  Binding* const binding = std::exchange(lane.used, nullptr);
  if (!binding || broken()) return {};
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (!inputs_[i].strings) continue;
    SERVOLLEY_TRY(
        take(api().bind_input(binding->handle.get(), inputs_[i].name.c_str(), no_strings_.get())));
  }
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (binding->runtime_allocates[i]) SERVOLLEY_TRY(leave_to_runtime(*binding, i));
  }
  return {};
}

void OrtLaneExecutor::settle(Lane& lane) {
  cuda::Gpu& device = *gpu().device;
  const std::pair<bool, cuda::Stream*> streams[] = {
      {lane.queued.up, &up_}, {lane.queued.compute, &compute()}, {lane.queued.down, &down_}};
  for (const auto& [queued, stream] : streams) {
    // On a device that is broken already nothing is under way any more, and this says so at once.
    if (const Status status = queued ? stream->synchronize() : Status(); !status.ok()) {
      device.give_up(status);
    }
  }
  if (lane.queued.down && device.given_up()) {
    // Device memory goes back to a device that nobody uses any more; this would be used again.
    for (Descent& descent : lane.descents) descent.tensor.owner.leak();
    lane.down.leak();
  }
  lane.queued = {};
}

}  // namespace servolley::ort
