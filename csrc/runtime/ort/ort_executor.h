#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "runtime/ort/ort_session.h"
#include "runtime/ort/ort_value.h"
#include "runtime/ort/output_plan.h"
#include "runtime/runner.h"

namespace servolley::ort {

// Runs through one IoBinding that keeps what did not change since the last run: a warm pool hands
// out the same memory again and again, and then nothing has to be bound at all.
class OrtExecutor final : public Executor {
 public:
  static Result<std::unique_ptr<Executor>> create(std::shared_ptr<const LoadedModel> model);

  Status run(std::span<const TensorView> inputs, std::int64_t rows,
             std::span<OutputTensor> outputs) override;
  void rehearse(bool on) override { rehearsing_ = on; }

 private:
  struct Input {
    std::string name;
    BoundTensor bound;
    Buffer aligned;  // a copy, where the view was not aligned to its element size
    bool strings = false;
  };
  struct Output {
    std::string name;
    OutputPlan plan;
    std::optional<std::uint32_t> copy_of_input;  // where an input is itself an output
    BoundTensor bound;
    DType dtype = DType::kFp32;
    bool runtime_allocates = true;
    bool is_adopted() const { return runtime_allocates && !copy_of_input; }
  };

  explicit OrtExecutor(std::shared_ptr<const LoadedModel> model) : model_(std::move(model)) {}
  Status initialize();
  Result<Handle<abi::RunOptions>> make_run_options(bool shrink) const;

  const abi::Functions& api() const { return model_->library()->api(); }
  Status take(abi::Error* error) const { return model_->library()->take(error, Phase::kRun); }
  Status wrap(BoundTensor& tensor, std::byte* data, const TensorView& view) const {
    const Library& library = *model_->library();
    return tensor.wrap(library, library.cpu_memory(), data, view);
  }

  Status bind_input(Input& input, const TensorView& view);
  Status bind_strings(Input& input, const TensorView& view);
  Status bind_output(Output& output, std::span<const TensorView> inputs, std::int64_t rows,
                     OutputTensor& tensor);
  Status copy_input(const Output& output, const TensorView& view, OutputTensor& tensor) const;
  Status leave_to_runtime(Output& output);
  Status bind_and_run(std::span<const TensorView> inputs, std::int64_t rows,
                      std::span<OutputTensor> outputs);
  Status collect(std::span<OutputTensor> outputs);
  // A run with so many bytes of tensors has been: its memory is kept, or given back after a rest.
  void note_size(std::size_t bytes);
  // Drops what the binding holds of this run's inputs and outputs.
  Status let_go();

  const std::shared_ptr<const LoadedModel> model_;
  std::vector<Input> inputs_;
  std::vector<Output> outputs_;
  Handle<abi::Value> no_strings_;
  Handle<abi::RunOptions> run_options_;
  Handle<abi::RunOptions> shrinking_run_options_;
  Handle<abi::Binding> binding_;
  bool plans_hold_ = true;  // false once the model broke its own shape declarations
  bool shrink_next_ = false;
  bool rehearsing_ = false;
};

}  // namespace servolley::ort
