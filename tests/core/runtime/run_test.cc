#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "runtime/fixture.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

std::vector<float> counting(std::size_t count, float start = 0) {
  std::vector<float> values(count);
  std::iota(values.begin(), values.end(), start);
  return values;
}

Status run(Executor& executor, const std::vector<TensorView>& inputs, std::int64_t rows,
           std::vector<OutputTensor>& outputs) {
  return executor.run(inputs, rows, outputs);
}

bool is_pooled(const OutputTensor& output) { return output.owner.capacity() % 64 == 0; }

}  // namespace

TEST_CASE("every datatype passes through unchanged, with every byte pattern") {
  Runtime runtime;
  for (std::size_t i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (dtype == DType::kBytes) continue;
    std::string name = "identity_";
    for (const char c : oip_name(dtype)) name += static_cast<char>(std::tolower(c));
    CAPTURE(name);
    auto executor = runtime.executor(name);
    std::vector<std::uint8_t> bytes(3 * 5 * element_size(dtype));
    for (std::size_t b = 0; b < bytes.size(); ++b) {
      bytes[b] = static_cast<std::uint8_t>(dtype == DType::kBool ? b % 2 : b * 37);
    }
    std::vector<OutputTensor> outputs(1);
    const Status status = run(*executor, {view_of(dtype, {3, 5}, bytes)}, 3, outputs);
    REQUIRE_MESSAGE(status.ok(), status.message());
    CHECK(outputs[0].view.dtype == dtype);
    CHECK(outputs[0].view.shape == Shape{3, 5});
    CHECK(values_of<std::uint8_t>(outputs[0]) == bytes);
  }
}

TEST_CASE("outputs lie in the pool when their shape follows, and any row count may come next") {
  Runtime runtime;
  auto executor = runtime.executor("half_plus_two");
  for (const std::size_t rows : {1U, 3U, 64U, 3U, 3U, 1000U, 1U}) {
    const auto x = counting(rows);
    std::vector<OutputTensor> outputs(1);
    const Status status = run(*executor, {floats({static_cast<std::int64_t>(rows)}, x)},
                              static_cast<std::int64_t>(rows), outputs);
    REQUIRE_MESSAGE(status.ok(), status.message());
    CHECK(is_pooled(outputs[0]));
    CHECK(runtime.pool.stats().in_use_bytes == outputs[0].owner.capacity());
    const auto y = values_of<float>(outputs[0]);
    REQUIRE(y.size() == rows);
    for (std::size_t i = 0; i < rows; ++i) CHECK(y[i] == 0.5F * x[i] + 2.0F);
  }
  CHECK(runtime.pool.stats().in_use_bytes == 0);
}

TEST_CASE("results of earlier runs stay as they are while later runs go on") {
  Runtime runtime;
  auto executor = runtime.executor("half_plus_two");
  std::vector<std::vector<OutputTensor>> kept;
  for (int i = 0; i < 10; ++i) {
    kept.emplace_back(1);
    REQUIRE(run(*executor, {floats({2}, counting(2, static_cast<float>(i)))}, 2, kept.back()).ok());
  }
  for (int i = 0; i < 10; ++i) {
    const auto y = values_of<float>(kept[static_cast<std::size_t>(i)][0]);
    CHECK(y[0] == 0.5F * static_cast<float>(i) + 2.0F);
    CHECK(y[1] == 0.5F * static_cast<float>(i + 1) + 2.0F);
  }
}

TEST_CASE("the same address with other bytes, another shape or another type is bound afresh") {
  Runtime runtime;
  auto executor = runtime.executor("identity_fp32");
  std::vector<float> data = counting(12);
  std::vector<OutputTensor> outputs(1);
  for (const Shape& shape : {Shape{3, 4}, Shape{4, 3}, Shape{12, 1}, Shape{3, 4}}) {
    data[0] += 1;
    REQUIRE(run(*executor, {floats(shape, data)}, shape[0], outputs).ok());
    CHECK(outputs[0].view.shape == shape);
    CHECK(values_of<float>(outputs[0]) == data);
  }
  TensorView wrong = floats({3, 4}, data);
  wrong.dtype = DType::kInt32;
  CHECK(run(*executor, {wrong}, 3, outputs).code() == Code::kInvalidArgument);
  CHECK_FALSE(outputs[0].owner);
  REQUIRE(run(*executor, {floats({3, 4}, data)}, 3, outputs).ok());
  CHECK(values_of<float>(outputs[0]) == data);
}

TEST_CASE("a batch dimension without a name is known from the rows") {
  Runtime runtime;
  auto executor = runtime.executor("row_sums");
  std::vector<OutputTensor> outputs(1);
  const auto data = counting(6);
  REQUIRE(run(*executor, {floats({2, 3}, data)}, 2, outputs).ok());
  CHECK(is_pooled(outputs[0]));
  CHECK(values_of<float>(outputs[0]) == std::vector<float>{3, 12});
  REQUIRE(run(*executor, {floats({3, 2}, data)}, 0, outputs).ok());  // not batched: unknown
  CHECK(values_of<float>(outputs[0]) == std::vector<float>{1, 5, 9});
  REQUIRE(run(*executor, {floats({2, 3}, data)}, 2, outputs).ok());  // and known again
  CHECK(values_of<float>(outputs[0]) == std::vector<float>{3, 12});
}

TEST_CASE("several inputs and outputs") {
  Runtime runtime;
  auto executor = runtime.executor("two_inputs");
  std::vector<std::int32_t> a(32);
  std::vector<std::int32_t> b(32, 3);
  std::iota(a.begin(), a.end(), 0);
  std::vector<OutputTensor> outputs(2);
  const auto view = [](const std::vector<std::int32_t>& v) {
    return view_of(DType::kInt32, {2, 16}, v);
  };
  REQUIRE(run(*executor, {view(a), view(b)}, 2, outputs).ok());
  for (std::size_t i = 0; i < 32; ++i) {
    CHECK(values_of<std::int32_t>(outputs[0])[i] == a[i] + b[i]);
    CHECK(values_of<std::int32_t>(outputs[1])[i] == a[i] - b[i]);
  }
  CHECK(run(*executor, {view(a)}, 2, outputs).code() == Code::kInternal);
}

TEST_CASE("scalars, zero-size tensors and misaligned views") {
  Runtime runtime;
  std::vector<OutputTensor> outputs(1);
  auto scalar = runtime.executor("scalar");
  REQUIRE(run(*scalar, {floats({}, {41.0F})}, 0, outputs).ok());
  CHECK(outputs[0].view.shape.rank() == 0);
  CHECK(values_of<float>(outputs[0]) == std::vector<float>{42});

  auto identity = runtime.executor("identity_fp32");
  for (const Shape& shape : {Shape{0, 4}, Shape{4, 0}, Shape{0, 0}}) {
    REQUIRE(run(*identity, {TensorView{DType::kFp32, shape, nullptr, 0}}, 0, outputs).ok());
    CHECK(outputs[0].view.shape == shape);
    CHECK(outputs[0].view.bytes == 0);
  }

  alignas(8) std::array<std::byte, 100> bytes{};
  for (std::size_t offset = 0; offset < 8; ++offset) {
    const auto values = counting(6, static_cast<float>(offset));
    std::memcpy(bytes.data() + offset, values.data(), 24);
    REQUIRE(
        run(*identity, {TensorView{DType::kFp32, {2, 3}, bytes.data() + offset, 24}}, 2, outputs)
            .ok());
    CHECK(values_of<float>(outputs[0]) == values);
  }
}

TEST_CASE("outputs that the runtime sizes are handed over without a copy and outlive everything") {
  Runtime runtime;
  std::vector<OutputTensor> outputs(1);
  std::vector<OutputTensor> others(1);
  {
    auto executor = runtime.executor("nonzero");
    REQUIRE(run(*executor, {floats({2, 2}, {0, 1, 1, 0})}, 2, outputs).ok());
    CHECK(runtime.pool.stats().in_use_bytes == 0);
    REQUIRE(run(*executor, {floats({2, 2}, {0, 0, 0, 5})}, 2, others).ok());
  }
  CHECK(outputs[0].view.shape == Shape{2, 2});
  CHECK(values_of<std::int64_t>(outputs[0]) == std::vector<std::int64_t>{0, 1, 1, 0});
  CHECK(values_of<std::int64_t>(others[0]) == std::vector<std::int64_t>{1, 1});
  runtime.library.reset();
  const Buffer shared = outputs[0].owner.share();
  outputs[0].owner.reset();
  CHECK(values_of<std::int64_t>(outputs[0]) == std::vector<std::int64_t>{0, 1, 1, 0});

  Runtime again;
  auto executor = again.executor("nonzero");
  REQUIRE(run(*executor, {floats({2, 2}, {0, 0, 0, 0})}, 2, others).ok());
  CHECK(others[0].view.shape == Shape{2, 0});
  CHECK(others[0].view.bytes == 0);
}

TEST_CASE("a model without declared shapes takes any") {
  Runtime runtime;
  auto executor = runtime.executor("unknown_rank");
  std::vector<OutputTensor> outputs(1);
  for (const Shape& shape : {Shape{}, Shape{1}, Shape{1, 1, 1}}) {
    REQUIRE(run(*executor, {floats(shape, {-3})}, 0, outputs).ok());
    CHECK(outputs[0].view.shape == shape);
    CHECK(values_of<float>(outputs[0]) == std::vector<float>{3});
  }
}

TEST_CASE("a model that breaks its own shape declaration is run again with the runtime's memory") {
  Runtime runtime;
  auto executor = runtime.executor("misnamed_output");
  std::vector<OutputTensor> outputs(1);
  for (int i = 0; i < 3; ++i) {
    const Status status = run(*executor, {floats({2, 2}, {1, 2, 3, 4})}, 2, outputs);
    REQUIRE_MESSAGE(status.ok(), status.message());
    CHECK(outputs[0].view.shape == Shape{2, 4});
    CHECK(values_of<float>(outputs[0]) == std::vector<float>{1, 2, 1, 2, 3, 4, 3, 4});
  }
}

TEST_CASE("outputs that are inputs or constants are right, also when bound") {
  Runtime runtime;
  auto executor = runtime.executor("passthrough");
  for (const std::int64_t rows : {1, 1, 1}) {
    std::vector<OutputTensor> outputs(2);
    const auto data = counting(static_cast<std::size_t>(rows) * 4, 7);
    const Status status = run(*executor, {floats({rows, 4}, data)}, rows, outputs);
    REQUIRE_MESSAGE(status.ok(), status.message());
    CHECK(values_of<float>(outputs[0]) == data);
    CHECK(values_of<float>(outputs[1]) == std::vector<float>{1, 2, 3});
  }
  // Two rows: the constant has one, whatever the declaration says.
  std::vector<OutputTensor> outputs(2);
  const auto data = counting(8, 7);
  const Status status = run(*executor, {floats({2, 4}, data)}, 2, outputs);
  REQUIRE_MESSAGE(status.ok(), status.message());
  CHECK(values_of<float>(outputs[0]) == data);
  CHECK(outputs[1].view.shape == Shape{1, 3});
  CHECK(values_of<float>(outputs[1]) == std::vector<float>{1, 2, 3});
}

TEST_CASE("an output that is the model's own constant outlives the model") {
  Runtime runtime;
  std::vector<OutputTensor> outputs(2);
  const auto data = counting(8, 7);
  REQUIRE(run(*runtime.executor("passthrough"), {floats({2, 4}, data)}, 0, outputs).ok());
  CHECK(values_of<float>(outputs[1]) == std::vector<float>{1, 2, 3});
}

TEST_CASE("errors say who is to blame, fill no output and leave the executor usable") {
  Runtime runtime;
  auto tiny = runtime.executor("tiny");
  auto picky = runtime.executor("picky");
  auto sequence = runtime.executor("sequence_first");
  std::vector<OutputTensor> outputs(1);
  const auto data = counting(64);
  const auto narrow = counting(60);
  const auto tokens = counting(24);
  const auto scale = counting(8);
  const std::vector<std::int64_t> far = {3, 1000, 2};

  const struct {
    Executor& executor;
    std::vector<TensorView> inputs;
    Code code;
  } cases[] = {
      {*tiny, {floats({4, 15}, narrow)}, Code::kInvalidArgument},
      {*tiny, {floats({2, 2, 16}, data)}, Code::kInvalidArgument},
      {*tiny, {floats({64}, data)}, Code::kInvalidArgument},
      {*tiny, {view_of(DType::kFp64, {2, 16}, data)}, Code::kInvalidArgument},
      {*tiny, {floats({3, 16}, data)}, Code::kInvalidArgument},  // 192 bytes declared, 256 there
      {*tiny, {floats({-4, 16}, data)}, Code::kInvalidArgument},
      {*tiny, {floats({std::int64_t{1} << 60, 16}, data)}, Code::kInvalidArgument},
      {*picky, {view_of(DType::kInt64, {3, 1}, far)}, Code::kInvalidArgument},
      {*sequence, {floats({2, 3, 4}, tokens), floats({2, 4}, scale)}, Code::kInvalidArgument},
  };
  for (const auto& c : cases) {
    const Status status = c.executor.run(c.inputs, 0, outputs);
    CAPTURE(status.message());
    CHECK(status.code() == c.code);
    CHECK_FALSE(outputs[0].owner);
    CHECK(outputs[0].view.data == nullptr);
    CHECK(status.message().find("onnxruntime_src") == std::string::npos);
    CHECK(status.message().find(".cc") == std::string::npos);
    CHECK(status.message().find('\n') == std::string::npos);
  }
  CHECK(runtime.pool.stats().in_use_bytes == 0);
  CHECK(run(*tiny, {floats({4, 16}, data)}, 4, outputs).ok());
  const std::vector<std::int64_t> near = {3, 1, -1};
  CHECK(run(*picky, {view_of(DType::kInt64, {3, 1}, near)}, 3, outputs).ok());
  CHECK(values_of<float>(outputs[0])[8] == 28.0F);
}

TEST_CASE("an answer whose size a client's number decides has a limit, and the memory comes back") {
  Runtime runtime;
  auto options = runtime.options();
  options.max_output_bytes = 1 << 20;
  auto runner = runtime.load("expand", options);
  auto executor = Runtime::executor_of(*runner);
  std::vector<OutputTensor> outputs(1);
  const auto expand = [&](std::vector<std::int64_t> dims) {
    return executor->run(
        std::vector{view_of(DType::kInt64, {static_cast<std::int64_t>(dims.size())}, dims)}, 0,
        outputs);
  };
  REQUIRE(expand({3, 2}).ok());
  CHECK(outputs[0].view.shape == Shape{3, 2});
  CHECK(values_of<std::uint8_t>(outputs[0]) == std::vector<std::uint8_t>(6, 7));
  CHECK(expand({1 << 20}).ok());
  CHECK(expand({(1 << 20) + 1}).code() == Code::kTooLarge);
  CHECK(expand({2000, 2000}).code() == Code::kTooLarge);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  // The sanitizers end the process instead of refusing.
  CHECK(expand({100'000'000'000'000}).code() == Code::kResourceExhausted);
#endif
  CHECK(expand({std::int64_t{1} << 40, std::int64_t{1} << 40}).code() != Code::kOk);
  CHECK(expand({-4, 1}).code() == Code::kInvalidArgument);
  REQUIRE(expand({5}).ok());

  // Where the shape is known before, nothing is even allocated.
  auto identity_runner = runtime.load("identity_fp32", options);
  auto identity = Runtime::executor_of(*identity_runner);
  const std::vector<float> large(300'000);
  CHECK(run(*identity, {floats({1, 300'000}, large)}, 1, outputs).code() == Code::kTooLarge);
  CHECK(runtime.pool.stats().high_water_bytes == 0);
}

TEST_CASE("a limited arena bounds what a run may take, and serves again afterwards") {
  auto library = OrtLibrary::open(library_path(), std::size_t{64} << 20);
  REQUIRE(library);
  Pool pool(cpu_device(), {});
  OrtOptions options;
  options.pool = &pool;
  options.intra_op_threads = 1;
  auto runner = load_model(*library, model_path("expand"), options);
  REQUIRE(runner);
  auto executor = Runtime::executor_of(**runner);
  std::vector<OutputTensor> outputs(1);
  for (const std::int64_t size : {10'000'000LL, 1'000'000'000LL, 100'000'000'000LL, 1'000'000LL}) {
    const std::vector<std::int64_t> dims = {size};
    const Status status = run(*executor, {view_of(DType::kInt64, {1}, dims)}, 0, outputs);
    CAPTURE(size);
    // No waiting would help.
    CHECK(status.code() == (size > 64 << 20 ? Code::kTooLarge : Code::kOk));
  }
  // Weights do not count: 50 MB twice.
  const auto first = load_model(*library, model_path("heavy"), options);
  const auto second = load_model(*library, model_path("heavy"), options);
  CHECK(first);
  CHECK(second);
}

TEST_CASE("a pool without room is RESOURCE_EXHAUSTED, and works again once there is room") {
  Runtime runtime;
  Pool small(cpu_device(), {.ceiling_bytes = 4096});
  auto options = runtime.options();
  options.pool = &small;
  auto runner = runtime.load("identity_fp32", options);
  auto executor = Runtime::executor_of(*runner);
  std::vector<OutputTensor> outputs(1);
  const auto data = counting(2000);
  CHECK(run(*executor, {floats({1, 2000}, data)}, 1, outputs).code() == Code::kTooLarge);
  auto held = small.allocate(3000);
  REQUIRE(held);
  const auto less = counting(1000);
  CHECK(run(*executor, {floats({1, 1000}, less)}, 1, outputs).code() == Code::kResourceExhausted);
  held->reset();
  CHECK(run(*executor, {floats({1, 1000}, less)}, 1, outputs).ok());
}

TEST_CASE("every option is accepted and changes no result") {
  Runtime runtime;
  const auto data = counting(32);
  std::vector<OutputTensor> reference(1);
  REQUIRE(run(*runtime.executor("tiny"), {floats({2, 16}, data)}, 2, reference).ok());
  std::vector<OrtOptions> variants(9, runtime.options());
  variants[0].memory_arena = false;
  variants[1].memory_pattern = true;
  variants[2].allow_spinning = true;
  variants[8].spin_us = 0;
  variants[3].intra_op_threads = 0;
  variants[4].parallel_execution = true;
  variants[4].inter_op_threads = 2;
  variants[5].shrink_arena = true;
  variants[6].shrink_arena = true;
  variants[6].memory_arena = false;
  variants[7].graph_optimization = 0;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    CAPTURE(i);
    auto runner = runtime.load("tiny", variants[i]);
    auto executor = Runtime::executor_of(*runner);
    std::vector<OutputTensor> outputs(1);
    for (int again = 0; again < 3; ++again) {
      REQUIRE(run(*executor, {floats({2, 16}, data)}, 2, outputs).ok());
      const auto got = values_of<float>(outputs[0]);
      const auto wanted = values_of<float>(reference[0]);
      REQUIRE(got.size() == wanted.size());
      for (std::size_t k = 0; k < got.size(); ++k) CHECK(got[k] == doctest::Approx(wanted[k]));
    }
  }
}
