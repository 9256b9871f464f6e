#pragma once

// A GPU that is not there: the stand-in driver, a runtime that computes on it, and batches for
// both.

#include "device/cuda/driver.h"
#include "device/host_device.h"
#include "runtime/cuda_table.h"

namespace servolley::ort::testing {

// One input of several requests, and the memory that its parts lie in.
class Parts {
 public:
  Parts(Pool& pool, DType dtype, Shape row) : pool_(pool), dtype_(dtype), row_(row) {}

  // One more request with that many rows, whose bytes count up from `start`.
  Parts& add(std::int64_t rows, int start) {
    Shape shape{rows};
    for (const std::int64_t dim : row_.dims()) shape.push_back(dim);
    const std::size_t bytes = *shape.byte_count(dtype_);
    auto buffer = pool_.allocate(std::max<std::size_t>(bytes, 1));
    REQUIRE(buffer);
    const std::size_t element = element_size(dtype_);
    for (std::size_t i = 0; i < bytes; ++i) {
      // Small numbers in every type, floats included.
      buffer->data()[i] = static_cast<std::byte>(
          i % element == element - 1 ? 0x40 : (static_cast<std::size_t>(start) + i / element) % 64);
    }
    parts_.push_back({.view = {dtype_, shape, buffer->data(), bytes}, .pinned = buffer->pinned()});
    buffers_.push_back(std::move(*buffer));
    rows_ += rows;
    return *this;
  }

  LaunchedBatch batch() const {
    return {.parts = parts_, .requests = parts_.size(), .rows = rows_};
  }
  // All rows as one tensor, in `bytes`.
  TensorView whole(std::vector<std::byte>& bytes) const {
    bytes.clear();
    for (const InputPart& part : parts_) {
      bytes.insert(bytes.end(), part.view.data, part.view.data + part.view.bytes);
    }
    TensorView view = batch().outline(0);
    view.data = bytes.data();
    return view;
  }
  const std::vector<InputPart>& parts() const { return parts_; }

 private:
  Pool& pool_;
  const DType dtype_;
  const Shape row_;
  std::vector<InputPart> parts_;
  std::vector<Buffer> buffers_;
  std::int64_t rows_ = 0;
};

class Gpus {
 public:
  explicit Gpus(int count = 1, const std::string& release = "") : table_(standin) {
    REQUIRE(standin.configure("devices=" + std::to_string(count)));
    auto driver = cuda::Driver::open(servolley::testing::Standin::path());
    REQUIRE(driver);
    for (int i = 0; i < count; ++i) {
      auto gpu = (*driver)->gpu(i);
      REQUIRE(gpu);
      memory_.push_back(std::make_unique<Pool>(**gpu, Pool::Options{}));
      gpus_.push_back({.device = *gpu, .memory = memory_.back().get()});
    }
    table_.device_memory = memory_.front().get();
    host_.use_pinned(gpus_.front().device);
    library_ = table_.library(release);
  }
  ~Gpus() {
    CHECK(standin.misuse() == "");
    CHECK(table_.failed == 0);
  }
  Gpus(const Gpus&) = delete;
  Gpus& operator=(const Gpus&) = delete;

  OrtOptions options() {
    OrtOptions options;
    options.gpus = gpus_;
    options.intra_op_threads = 1;
    options.pool = &pool;
    options.name = "model 'm'";
    return options;
  }
  // Again, for what the table answers only after a change.
  void reopen() { library_ = table_.library(); }
  Result<std::shared_ptr<Runner>> try_load(const std::string& name, const OrtOptions& with) {
    return load_model(library_, model_path(name), with);
  }
  std::shared_ptr<Runner> load(const std::string& name, const OrtOptions& with) {
    auto runner = try_load(name, with);
    REQUIRE_MESSAGE(runner, name << ": " << (runner ? "" : runner.error().message()));
    return *runner;
  }
  std::shared_ptr<Runner> load(const std::string& name) { return load(name, options()); }
  static std::unique_ptr<LaneExecutor> lanes(Runner& runner, int count,
                                             std::vector<std::int64_t> buckets = {}) {
    auto made = runner.create_lanes(0, {.lanes = count, .row_buckets = std::move(buckets)});
    REQUIRE_MESSAGE(made, std::string(made ? "" : made.error().message()));
    return std::move(*made);
  }
  // What the same model says without a GPU.
  std::vector<OutputTensor> on_cpu(const std::string& name, std::span<const TensorView> inputs,
                                   std::int64_t rows) {
    OrtOptions with = options();
    with.gpus.clear();
    auto runner = load_model(open_library(), model_path(name), with);
    REQUIRE(runner);
    auto executor = (*runner)->create_executor();
    REQUIRE(executor);
    std::vector<OutputTensor> outputs((*runner)->signature().outputs.size());
    const Status status = (*executor)->run(inputs, rows, outputs);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return outputs;
  }

  servolley::testing::Standin standin;
  CudaTable& table() { return table_; }
  cuda::Gpu& gpu() { return *gpus_.front().device; }
  Pool& device_pool() { return *memory_.front(); }

 private:
  CudaTable table_;
  HostDevice host_;

 public:
  Pool pool{host_, {}};

 private:
  std::vector<OrtGpu> gpus_;
  std::vector<std::unique_ptr<Pool>> memory_;  // goes before its device
  std::shared_ptr<OrtLibrary> library_;
};

inline std::vector<std::byte> content(const OutputTensor& output) {
  return {output.view.data, output.view.data + output.view.bytes};
}

inline void check_same(std::span<const OutputTensor> got, std::span<const OutputTensor> wanted) {
  REQUIRE(got.size() == wanted.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    CHECK(got[i].view.dtype == wanted[i].view.dtype);
    CHECK(got[i].view.shape == wanted[i].view.shape);
    CHECK(content(got[i]) == content(wanted[i]));
  }
}

}  // namespace servolley::ort::testing
