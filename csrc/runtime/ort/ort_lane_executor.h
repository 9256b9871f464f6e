#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <vector>

#include "runtime/ort/kept_buffer.h"
#include "runtime/ort/ort_session.h"
#include "runtime/ort/ort_value.h"
#include "runtime/ort/output_plan.h"
#include "runtime/runner.h"

namespace servolley::ort {

// Launches batches on a GPU: inputs go up in one stream, the session computes in its own, outputs
// come down in a third, and events hold them in order. The rows of pinned requests go straight to
// their place in the device's batch; small and unpinned ones are gathered in pinned memory first.
//
// Outputs that clients want in memory of the device are copied there. A request by itself has them
// written there by the run where nothing speaks against it.
//
// Strings, and what the session wants on the CPU, stay in host memory. Outputs whose shape nobody
// knows before the run come down from where the runtime has put them.
//
// Where every change of a batch's size costs time, batches are filled up to one of a few sizes,
// with rows that nobody reads.
//
// Where graphs are on, every lane keeps buffers and a graph for every bucket of rows, captured by
// its first batch; a batch is filled up with rows that nobody reads. All graphs are of one shape
// apart from the rows, the first that may be captured: batches of others run without. A model
// without a batch dimension has one graph in each lane.
class OrtLaneExecutor final : public LaneExecutor {
 public:
  static Result<std::unique_ptr<LaneExecutor>> create(std::shared_ptr<const LoadedModel> model,
                                                      const LaneOptions& options);

  int lanes() const override { return static_cast<int>(lanes_.size()); }
  Status launch(int lane, const LaunchedBatch& batch) override;
  Status wait(int lane, std::span<OutputTensor> outputs) override;
  void fill_up(bool on) override { filling_ = on && may_fill_up_; }
  bool done(int lane) override;
  bool broken() const override { return gpu().device->broken(); }

 private:
  struct Input {
    std::string name;
    bool strings = false;
    bool on_host = false;
  };
  struct Output {
    std::string name;
    OutputPlan plan;
    std::optional<std::uint32_t> copy_of_input;  // where an input is itself an output
    DType dtype = DType::kFp32;
    bool on_host = false;
  };
  // What a lane's batches are bound with: those of any size, or those of one bucket.
  struct Binding {
    bool graph = false;
    std::int64_t rows = 0;  // that the batch is filled up to; 0: it has as many as it has
    Handle<abi::RunOptions> run_options;
    Handle<abi::Binding> handle;
    std::vector<BoundTensor> inputs;
    std::vector<BoundTensor> outputs;
    std::vector<KeptBuffer> input_memory;  // the device's, or gathered on the host
    std::vector<KeptBuffer> output_memory;
    std::vector<bool> runtime_allocates;  // by output
    bool captured = false;
    int failed_captures = 0;
    bool given_up = false;  // while other buckets have their graphs
  };
  // An output on its way down.
  struct Descent {
    OutputTensor tensor;
    const std::byte* from = nullptr;    // device memory
    bool in_place = false;              // which is its client's already
    std::optional<std::size_t> staged;  // its place in the lane's block, if it is not pinned
    Handle<abi::Value> value;           // what the runtime made, on the device or the host
  };
  // In which streams something of a batch may be under way.
  struct Queued {
    bool up = false;
    bool compute = false;
    bool down = false;
  };
  struct Lane {
    std::vector<Binding> bindings;  // the first is for any size
    Binding* used = nullptr;
    cuda::Event uploaded;
    cuda::Event computed;
    cuda::Event downloaded;
    KeptBuffer up;     // pinned: what is too small for a DMA of its own is gathered there
    KeptBuffer down;   // the same, for outputs that are not pinned themselves
    int launches = 0;  // since its memory was last looked at
    std::vector<Descent> descents;
    Queued queued;
    bool run_failed = false;     // of the batch, if it came to its run
    std::optional<Status> seen;  // how done() found the batch's end, if it did
  };

  struct StreamLocks {
    std::unique_lock<std::shared_mutex> alone;
    std::shared_lock<std::shared_mutex> together;
  };

  explicit OrtLaneExecutor(std::shared_ptr<const LoadedModel> model) : model_(std::move(model)) {}
  Status initialize(const LaneOptions& options);
  Result<Binding> make_binding(bool graph, std::int64_t rows) const;
  Result<Handle<abi::RunOptions>> make_run_options(bool graph) const;

  const abi::Functions& api() const { return model_->library()->api(); }
  Status take(abi::Error* error) const { return model_->library()->take(error, Phase::kRun); }
  const OrtGpu& gpu() const { return model_->gpu()->gpu; }
  cuda::Stream& compute() const { return model_->gpu()->compute; }

  // Before a launch: gives back what the lane has no use for any more.
  void shrink(Lane& lane);
  StreamLocks lock_stream(const Lane& lane) const;
  Status queue_up(Lane& lane, const LaunchedBatch& batch);
  // After a failure with a graph.
  Status retry_plainly(Lane& lane, const LaunchedBatch& batch, const Status& why);
  void refuse_graphs(const std::string& why);
  // After a capture that has failed, where the batch was not to blame.
  void count_failed_capture(Binding& bucket, const std::string& why);
  bool any_captured() const;
  // What a batch without a graph is filled up to; 0: it is not.
  std::int64_t rows_to_fill(std::int64_t rows);
  Binding& plainly(Lane& lane, const LaunchedBatch& batch);
  Binding& choose(Lane& lane, const LaunchedBatch& batch);
  // Whether the batch is of the graphs' shape, whatever its rows; where there is none yet, it is
  // from now on.
  bool fits_graphs(const LaunchedBatch& batch);
  void say_what_does_not_fit(const LaunchedBatch& batch);
  Status outline(const Binding& binding, const LaunchedBatch& batch);
  Status reserve_block(KeptBuffer& block, std::size_t bytes);
  Status upload(Lane& lane, const LaunchedBatch& batch);
  Status upload_input(Lane& lane, std::size_t i, std::span<const InputPart> parts,
                      std::size_t staged);
  Status bind_device_input(Binding& binding, std::size_t i, bool anew);
  Status bind_host_input(Lane& lane, std::size_t i, std::span<const InputPart> parts);
  Status bind_outputs(Lane& lane, const LaunchedBatch& batch);
  Status bind_output(Binding& binding, std::size_t i, Descent& descent, const LaunchedBatch& batch);
  // The client's memory for an output, where the run may write to it as it is; null if it may not.
  std::byte* written_in_place(const Binding& binding, std::size_t i, const LaunchedBatch& batch,
                              std::size_t bytes) const;
  Status leave_to_runtime(Binding& binding, std::size_t i) const;
  Status run(Lane& lane);
  // Puts the stream in order after a run that should have captured; the bucket may try again.
  Status end_capture(Binding& bucket);
  Status collect(Lane& lane);
  // Which requests get their rows of the output on the device.
  static void choose_deliveries(const LaunchedBatch& batch, std::size_t i, OutputTensor& tensor);
  Status download(Lane& lane, const LaunchedBatch& batch);
  Status bring_down(Lane& lane, const LaunchedBatch& batch, std::size_t i);
  Status let_go(Lane& lane) const;
  // Waits until nothing reads or writes the lane's memory and the batch's. With the stream's lock.
  void settle(Lane& lane);

  const std::shared_ptr<const LoadedModel> model_;
  cuda::Stream up_;
  cuda::Stream down_;
  std::vector<Input> inputs_;
  std::vector<Output> outputs_;
  Handle<abi::Value> no_strings_;
  std::vector<Lane> lanes_;
  std::vector<Shape> graph_shapes_;  // of the inputs, for any number of rows; none: not settled
  int failed_captures_ = 0;          // in a row
  bool misfit_logged_ = false;
  std::vector<std::int64_t> row_sizes_;  // ascending, that batches may be filled up to
  bool may_fill_up_ = false;
  bool filling_ = false;
  std::int64_t filled_to_ = 0;      // the last batch
  std::vector<TensorView> views_;   // of the batch that is being launched, as the session sees it
  std::vector<std::byte*> places_;  // where it finds its inputs on the device
  bool plans_hold_ = true;          // false once the model broke its own shape declarations
};

}  // namespace servolley::ort
