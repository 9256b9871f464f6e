#include "runtime/ort/ort_executor.h"

#include <cstring>

#include "runtime/ort/ort_strings.h"

namespace servolley::ort {
namespace {

// The first run that comes that long after a large one, of whatever model, gives back what the
// arena has grown by.
constexpr Duration kArenaRest = std::chrono::seconds(2);

std::size_t bytes_of(std::span<const TensorView> inputs, std::span<const OutputTensor> outputs) {
  std::size_t bytes = 0;
  for (const TensorView& view : inputs) bytes += view.bytes;
  for (const OutputTensor& output : outputs) bytes += output.view.bytes;
  return bytes;
}

}  // namespace

Result<std::unique_ptr<Executor>> OrtExecutor::create(std::shared_ptr<const LoadedModel> model) {
  std::unique_ptr<OrtExecutor> executor(new OrtExecutor(std::move(model)));
  SERVOLLEY_TRY(executor->initialize());
  return std::unique_ptr<Executor>(std::move(executor));
}

Status OrtExecutor::initialize() {
  const Signature& signature = model_->signature();
  const OrtOptions& options = model_->options();
  for (const TensorSpec& spec : signature.inputs) {
    inputs_.push_back(
        {.name = spec.name, .bound = {}, .aligned = {}, .strings = spec.dtype == DType::kBytes});
  }
  for (const TensorSpec& spec : signature.outputs) {
    outputs_.push_back({.name = spec.name,
                        .plan = OutputPlan(signature, spec),
                        .copy_of_input = signature.input_index(spec.name),
                        .bound = {},
                        .dtype = spec.dtype,
                        .runtime_allocates = true});
  }
  auto run_options = make_run_options(options.shrink_arena);
  if (!run_options) return std::move(run_options).error();
  run_options_ = std::move(*run_options);
  auto shrinking = make_run_options(true);
  if (!shrinking) return std::move(shrinking).error();
  shrinking_run_options_ = std::move(*shrinking);

  const std::int64_t none = 0;
  abi::Value* strings = nullptr;
  SERVOLLEY_TRY(
      take(api().create_tensor(model_->library()->allocator(), &none, 1, abi::kString, &strings)));
  no_strings_ = own(strings, api().release_value);
  abi::Binding* binding = nullptr;
  SERVOLLEY_TRY(take(api().create_binding(model_->session(), &binding)));
  binding_ = own(binding, api().release_binding);
  // The order of the first binding is the order in which the results come back.
  for (Output& output : outputs_) SERVOLLEY_TRY(leave_to_runtime(output));
  return {};
}

Result<Handle<abi::RunOptions>> OrtExecutor::make_run_options(bool shrink) const {
  abi::RunOptions* raw = nullptr;
  SERVOLLEY_TRY(take(api().create_run_options(&raw)));
  auto options = own(raw, api().release_run_options);
  // A failed run is answered with its status; a client must not be able to fill the log with it.
  SERVOLLEY_TRY(take(api().set_run_log_severity(raw, abi::kFatal)));
  // Without an arena there is nothing to shrink, and asking for it would fail the run.
  if (shrink && model_->options().memory_arena) {
    SERVOLLEY_TRY(take(api().add_run_config(raw, "memory.enable_memory_arena_shrinkage", "cpu:0")));
  }
  return options;
}

Status OrtExecutor::run(std::span<const TensorView> inputs, std::int64_t rows,
                        std::span<OutputTensor> outputs) {
  if (inputs.size() != inputs_.size() || outputs.size() != outputs_.size()) {
    return internal_error("a run needs every input and output of the signature");
  }
  Status status = bind_and_run(inputs, rows, outputs);
  if (plans_hold_ && may_be_bound_shape_mismatch(status)) {
    plans_hold_ = false;
    status = bind_and_run(inputs, rows, outputs);
  }
  if (status.ok()) status = collect(outputs);
  note_size(bytes_of(inputs, outputs));
  const Status released = let_go();
  if (status.ok()) status = released;
  if (!status.ok()) {
    for (OutputTensor& output : outputs) output = {};
  }
  return status;
}

void OrtExecutor::note_size(std::size_t bytes) {
  if (bytes < kLargeRunBytes) return;
  if (rehearsing_) {
    model_->keep_for(bytes);
  } else if (bytes > model_->kept_for()) {
    model_->library()->large_runs().note(Clock::now());
  }
}

Status OrtExecutor::bind_and_run(std::span<const TensorView> inputs, std::int64_t rows,
                                 std::span<OutputTensor> outputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    SERVOLLEY_TRY(bind_input(inputs_[i], inputs[i]));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    SERVOLLEY_TRY(bind_output(outputs_[i], inputs, rows, outputs[i]));
  }
  if (model_->options().memory_arena && model_->library()->large_runs().take_if_over(kArenaRest)) {
    shrink_next_ = true;
  }
  const abi::RunOptions* options =
      std::exchange(shrink_next_, false) ? shrinking_run_options_.get() : run_options_.get();
  return take(api().run_with_binding(model_->session(), options, binding_.get()));
}

Status OrtExecutor::bind_input(Input& input, const TensorView& view) {
  if (view.dtype == DType::kBytes) return bind_strings(input, view);
  const std::byte* data = view.data;
  const std::size_t element = element_size(view.dtype);
  if (view.bytes == 0) {
    data = nowhere();
  } else if (reinterpret_cast<std::uintptr_t>(data) % element != 0) {
    if (input.aligned.capacity() < view.bytes) {
      auto copy = model_->options().pool->allocate(view.bytes);
      if (!copy) return std::move(copy).error();
      input.aligned = std::move(*copy);
    }
    std::memcpy(input.aligned.data(), data, view.bytes);
    data = input.aligned.data();
  }
  if (input.bound.is(data, view)) return {};
  const auto expected = view.shape.byte_count(view.dtype);
  if (!expected || *expected != view.bytes) {
    return invalid_argument("input '" + input.name + "' has " + std::to_string(view.bytes) +
                            " bytes, which does not fit its shape " + view.shape.to_string());
  }
  // The interface takes no const; inputs are only read.
  SERVOLLEY_TRY(wrap(input.bound, const_cast<std::byte*>(data), view));
  Status status =
      take(api().bind_input(binding_.get(), input.name.c_str(), input.bound.value.get()));
  if (!status.ok()) input.bound.value.reset();
  return status;
}

Status OrtExecutor::bind_strings(Input& input, const TensorView& view) {
  auto strings = make_strings(*model_->library(), view);
  if (!strings) {
    return {strings.error().code(), "input '" + input.name + "': " + strings.error().message()};
  }
  input.bound.value.reset();
  return take(api().bind_input(binding_.get(), input.name.c_str(), strings->get()));
}

Status OrtExecutor::bind_output(Output& output, std::span<const TensorView> inputs,
                                std::int64_t rows, OutputTensor& tensor) {
  tensor = {};
  if (output.copy_of_input) return copy_input(output, inputs[*output.copy_of_input], tensor);
  const auto shape = plans_hold_ && output.plan.possible() ? output.plan.infer(inputs, rows)
                                                           : std::optional<Shape>();
  const auto bytes = shape ? shape->byte_count(output.dtype) : std::optional<std::size_t>();
  if (!bytes) return output.runtime_allocates ? Status() : leave_to_runtime(output);
  const OrtOptions& options = model_->options();
  if (*bytes > options.max_output_bytes) {
    return too_much_output(output.name, options.max_output_bytes);
  }
  auto buffer = options.pool->allocate(*bytes);
  if (!buffer) return std::move(buffer).error();
  tensor.view = {output.dtype, *shape, buffer->data(), *bytes};
  tensor.owner = std::move(*buffer);
  if (!output.runtime_allocates && output.bound.is(tensor.owner.data(), tensor.view)) return {};
  SERVOLLEY_TRY(wrap(output.bound, tensor.owner.data(), tensor.view));
  SERVOLLEY_TRY(
      take(api().bind_output(binding_.get(), output.name.c_str(), output.bound.value.get())));
  output.runtime_allocates = false;
  return {};
}

// An output that is an input: the runtime ignores what is bound and hands the input's own memory
// back, which is not ours to pass on.
Status OrtExecutor::copy_input(const Output& output, const TensorView& view,
                               OutputTensor& tensor) const {
  const OrtOptions& options = model_->options();
  if (view.bytes > options.max_output_bytes) {
    return too_much_output(output.name, options.max_output_bytes);
  }
  auto buffer = options.pool->allocate(view.bytes);
  if (!buffer) return std::move(buffer).error();
  if (view.bytes) std::memcpy(buffer->data(), view.data, view.bytes);
  tensor.view = {view.dtype, view.shape, buffer->data(), view.bytes};
  tensor.owner = std::move(*buffer);
  return {};
}

Status OrtExecutor::leave_to_runtime(Output& output) {
  output.runtime_allocates = true;
  output.bound.value.reset();
  return take(api().bind_output_to_device(binding_.get(), output.name.c_str(),
                                          model_->library()->cpu_memory()));
}

Status OrtExecutor::collect(std::span<OutputTensor> outputs) {
  bool any = false;
  for (const Output& output : outputs_) any |= output.is_adopted();
  if (!any) return {};
  auto values = bound_values(*model_->library(), binding_.get(), outputs_.size());
  if (!values) return std::move(values).error();
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (!outputs_[i].is_adopted()) continue;
    outputs[i].view.dtype = outputs_[i].dtype;
    Status status = adopt(model_, outputs_[i].name, std::move((*values)[i]), outputs[i]);
    // What the arena grew by for an answer that nobody gets goes back with the next run.
    if (status.code() == Code::kResourceExhausted || status.code() == Code::kTooLarge) {
      shrink_next_ = true;
    }
    SERVOLLEY_TRY(status);
  }
  return {};
}

Status OrtExecutor::let_go() {
  for (Input& input : inputs_) {
    if (!input.strings) continue;
    SERVOLLEY_TRY(take(api().bind_input(binding_.get(), input.name.c_str(), no_strings_.get())));
  }
  for (Output& output : outputs_) {
    if (output.runtime_allocates) SERVOLLEY_TRY(leave_to_runtime(output));
  }
  return {};
}

}  // namespace servolley::ort
