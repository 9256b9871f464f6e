// Batches on a GPU that is not there: real numbers of ONNX Runtime through the real asynchronous
// path.

#include <doctest/doctest.h>

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "device/memory_of.h"
#include "runtime/gpu_fixture.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

std::vector<OutputTensor> run(LaneExecutor& lanes, const LaunchedBatch& batch,
                              std::size_t outputs = 1, int lane = 0) {
  std::vector<OutputTensor> out(outputs);
  Status status = lanes.launch(lane, batch);
  REQUIRE_MESSAGE(status.ok(), status.message());
  status = lanes.wait(lane, out);
  REQUIRE_MESSAGE(status.ok(), status.message());
  return out;
}

Status try_run(LaneExecutor& lanes, const LaunchedBatch& batch, std::size_t outputs = 1) {
  std::vector<OutputTensor> out(outputs);
  SERVOLLEY_TRY(lanes.launch(0, batch));
  Status status = lanes.wait(0, out);
  for (const OutputTensor& output : out) CHECK(static_cast<bool>(output.owner) == status.ok());
  return status;
}

}  // namespace

TEST_CASE("batches on a GPU equal runs on the CPU, of every type, pinned or not, large and small") {
  Gpus gpus;
  for (std::size_t i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    if (dtype == DType::kBytes || dtype == DType::kBool) continue;
    std::string name = "identity_";
    for (const char c : oip_name(dtype)) name += static_cast<char>(std::tolower(c));
    CAPTURE(name);
    auto runner = gpus.load(name);
    CHECK(runner->devices().size() == 1);
    auto lanes = Gpus::lanes(*runner, 2);
    for (const std::int64_t items : {3, 40'000}) {
      Parts parts(gpus.pool, dtype, {items});
      parts.add(1, 1).add(5, 2).add(2, 3).add(1, 4);
      std::vector<std::byte> bytes;
      const TensorView whole[] = {parts.whole(bytes)};
      check_same(run(*lanes, parts.batch()), gpus.on_cpu(name, whole, 9));
    }
  }
}

TEST_CASE("batched equals unbatched") {
  Gpus gpus;
  auto runner = gpus.load("mlp");
  auto lanes = Gpus::lanes(*runner, 1);
  Parts all(gpus.pool, DType::kFp32, {256});
  for (int i = 0; i < 5; ++i) all.add(1 + i % 2, i);
  const auto together = run(*lanes, all.batch());
  std::size_t row = 0;
  for (const InputPart& part : all.parts()) {
    const auto alone =
        run(*lanes, {.parts = {&part, 1}, .requests = 1, .rows = part.view.shape[0]});
    const auto wanted = values_of<float>(together[0]);
    const auto got = values_of<float>(alone[0]);
    for (std::size_t k = 0; k < got.size(); ++k) {
      CHECK(got[k] == doctest::Approx(wanted[row * 10 + k]));
    }
    row += static_cast<std::size_t>(part.view.shape[0]);
  }
  CHECK(row == 7);
}

TEST_CASE("several inputs and outputs, and outputs that are inputs") {
  Gpus gpus;
  std::vector<std::int32_t> a(48);
  std::vector<std::int32_t> b(48, 3);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<std::int32_t>(i);
  const auto part = [](std::vector<std::int32_t>& values, std::size_t from, std::int64_t rows) {
    return InputPart{.view = {DType::kInt32,
                              {rows, 16},
                              reinterpret_cast<const std::byte*>(values.data() + from),
                              static_cast<std::size_t>(rows) * 64}};
  };
  auto runner = gpus.load("two_inputs");
  auto lanes = Gpus::lanes(*runner, 1);
  const std::vector<InputPart> parts = {part(a, 0, 1), part(a, 16, 2), part(b, 0, 1),
                                        part(b, 16, 2)};
  const auto outputs = run(*lanes, {.parts = parts, .requests = 2, .rows = 3}, 2);
  for (std::size_t i = 0; i < 48; ++i) {
    CHECK(values_of<std::int32_t>(outputs[0])[i] == a[i] + b[i]);
    CHECK(values_of<std::int32_t>(outputs[1])[i] == a[i] - b[i]);
  }

  auto constant = gpus.load("passthrough");
  auto one = Gpus::lanes(*constant, 1);
  gpus.table().waits = true;  // the constant has one row, whatever the batch has
  Parts rows(gpus.pool, DType::kFp32, {4});
  rows.add(1, 1).add(1, 2);
  std::vector<std::byte> bytes;
  const TensorView whole[] = {rows.whole(bytes)};
  check_same(run(*one, rows.batch(), 2), gpus.on_cpu("passthrough", whole, 2));
}

TEST_CASE("strings stay on the host, and so does what the session wants there") {
  Gpus gpus;
  auto runner = gpus.load("identity_bytes");
  auto lanes = Gpus::lanes(*runner, 2);
  gpus.table().waits = true;
  const std::string first = pack({"one", ""});
  const std::string second = pack({"three", "four and more"});
  const std::vector<InputPart> parts = {{.view = bytes_of({1, 2}, first)},
                                        {.view = bytes_of({1, 2}, second)}};
  for (int lane = 0; lane < 2; ++lane) {
    const auto outputs = run(*lanes, {.parts = parts, .requests = 2, .rows = 2}, 1, lane);
    CHECK(outputs[0].view.shape == Shape{2, 2});
    CHECK(text_of(outputs[0]) == first + second);
  }
  CHECK(gpus.standin.count("copy_to_device") == 0);

  gpus.table().waits = false;
  gpus.table().host_inputs = {0};
  auto on_host = gpus.load("half_plus_two");
  auto host_lanes = Gpus::lanes(*on_host, 1);
  Parts numbers(gpus.pool, DType::kFp32, {});
  numbers.add(2, 1).add(1, 5);
  std::vector<std::byte> bytes;
  const TensorView whole[] = {numbers.whole(bytes)};
  check_same(run(*host_lanes, numbers.batch()), gpus.on_cpu("half_plus_two", whole, 3));
  CHECK(gpus.standin.count("copy_to_device") == 0);
}

TEST_CASE("outputs whose size the data decides come down from where the runtime has put them") {
  Gpus gpus;
  gpus.table().waits = true;
  auto runner = gpus.load("nonzero");
  auto lanes = Gpus::lanes(*runner, 2);
  const std::vector<float> some = {0, 1, 1, 0};
  const std::vector<float> none = {0, 0, 0, 0};
  for (int round = 0; round < 3; ++round) {
    const std::vector<InputPart> parts = {{.view = floats({2, 2}, round == 1 ? none : some)}};
    const auto outputs = run(*lanes, {.parts = parts, .requests = 1, .rows = 0}, 1, round % 2);
    CHECK(outputs[0].view.shape == Shape{2, round == 1 ? 0 : 2});
    if (round == 1) continue;
    CHECK(values_of<std::int64_t>(outputs[0]) == std::vector<std::int64_t>{0, 1, 1, 0});
  }
  // A model that breaks its own declaration is run again with the runtime's memory.
  auto misnamed = gpus.load("misnamed_output");
  auto other = Gpus::lanes(*misnamed, 1);
  const std::vector<float> values = {1, 2, 3, 4};
  const std::vector<InputPart> parts = {{.view = floats({2, 2}, values)}};
  for (int round = 0; round < 2; ++round) {
    const auto outputs = run(*other, {.parts = parts, .requests = 1, .rows = 2});
    CHECK(outputs[0].view.shape == Shape{2, 4});
    CHECK(values_of<float>(outputs[0]) == std::vector<float>{1, 2, 1, 2, 3, 4, 3, 4});
  }
}

TEST_CASE("errors say who is to blame and leave the lane usable; too much output is refused") {
  Gpus gpus;
  gpus.table().waits = true;
  auto runner = gpus.load("tiny");
  auto lanes = Gpus::lanes(*runner, 1);
  const auto code_of = [&](LaneExecutor& executor, TensorView view) {
    const InputPart part{.view = view};
    return try_run(executor, {.parts = {&part, 1}, .requests = 1, .rows = 0}).code();
  };
  const std::vector<float> data(64);
  CHECK(code_of(*lanes, floats({4, 16}, data)) == Code::kOk);
  CHECK(code_of(*lanes, floats({64}, data)) == Code::kInvalidArgument);
  CHECK(code_of(*lanes, floats({3, 16}, data)) == Code::kInvalidArgument);
  CHECK(code_of(*lanes, floats({std::int64_t{1} << 60, 16}, data)) == Code::kInvalidArgument);
  CHECK(code_of(*lanes, floats({4, 16}, data)) == Code::kOk);
  CHECK_FALSE(lanes->broken());

  OrtOptions small = gpus.options();
  small.max_output_bytes = 1000;
  auto identity = gpus.load("identity_fp32", small);
  auto limited = Gpus::lanes(*identity, 1);
  CHECK(code_of(*limited, floats({1, 64}, data)) == Code::kOk);
  const std::vector<float> many(500);
  CHECK(code_of(*limited, floats({1, 500}, many)) == Code::kTooLarge);
  CHECK(code_of(*limited, floats({1, 64}, data)) == Code::kOk);
}

TEST_CASE("a GPU without memory is RESOURCE_EXHAUSTED, and serves again; a failed one is broken") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32");
  auto lanes = Gpus::lanes(*runner, 2);
  Parts parts(gpus.pool, DType::kFp32, {1000});
  parts.add(2, 1);
  constexpr int kOutOfMemory = 2;
  constexpr int kIllegalAddress = 700;
  gpus.standin.fail("cuMemAlloc_v2", kOutOfMemory, 0, 2);  // also after a trim
  CHECK(try_run(*lanes, parts.batch()).code() == Code::kResourceExhausted);
  CHECK_FALSE(lanes->broken());
  CHECK(try_run(*lanes, parts.batch()).ok());

  gpus.standin.fail("kernel", kIllegalAddress);
  CHECK(try_run(*lanes, parts.batch()).code() == Code::kInternal);
  CHECK(lanes->broken());
  CHECK(try_run(*lanes, parts.batch()).code() == Code::kInternal);
}

TEST_CASE(
    "pinned rows go up by themselves, small and unpinned ones together; outputs as they are") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32");
  auto lanes = Gpus::lanes(*runner, 1);
  const auto sizes = [&](const char* what) {
    std::vector<unsigned long long> bytes;
    for (const auto& record : gpus.standin.log()) {
      if (record.phase == kStandinBegin && std::string(record.what) == what) {
        bytes.push_back(record.bytes);
      }
    }
    return bytes;
  };
  using Sizes = std::vector<unsigned long long>;
  {
    Parts small(gpus.pool, DType::kFp32, {10});
    small.add(1, 1).add(2, 2).add(3, 3);
    gpus.standin.clear_log();
    run(*lanes, small.batch());
    CHECK(sizes("copy_to_device") == Sizes{240});
    CHECK(sizes("copy_to_host") == Sizes{240});
  }
  Parts large(gpus.pool, DType::kFp32, {40'000});  // 160 KB for each row
  large.add(1, 1).add(2, 2);
  REQUIRE(large.parts()[0].pinned);
  gpus.standin.clear_log();
  run(*lanes, large.batch());
  CHECK(sizes("copy_to_device") == Sizes{160'000, 320'000});
  CHECK(sizes("copy_to_host") == Sizes{480'000});
  // An unpinned part between pinned ones.
  const std::vector<float> unpinned(40'000, 1.0F);
  const std::vector<InputPart> mixed = {
      large.parts()[0], {.view = floats({1, 40'000}, unpinned)}, large.parts()[1]};
  gpus.standin.clear_log();
  const auto outputs = run(*lanes, {.parts = mixed, .requests = 3, .rows = 4});
  CHECK(sizes("copy_to_device") == Sizes{160'000, 160'000, 320'000});
  CHECK(values_of<float>(outputs[0])[40'000] == 1.0F);
  CHECK(gpus.standin.count("pageable_copy") == 0);  // nothing makes the host wait
  CHECK(gpus.standin.count("cuStreamSynchronize") == 0);
}

TEST_CASE("what lies on the device already is used there: alone as it is, with others copied") {
  Gpus gpus;
  auto runner = gpus.load("identity_fp32");
  CHECK(runner->takes_device_memory());
  auto lanes = Gpus::lanes(*runner, 1);
  Parts host(gpus.pool, DType::kFp32, {1000});
  host.add(1, 1).add(2, 30);
  std::vector<std::byte> bytes;
  const TensorView whole[] = {host.whole(bytes)};
  const auto wanted = gpus.on_cpu("identity_fp32", whole, 3);
  const servolley::testing::DeviceBytes memory(gpus.gpu(), 2 * 8000);
  for (const std::size_t offset : {std::size_t{0}, std::size_t{4}}) {
    InputPart there = host.parts()[1];
    std::memcpy(gpus.standin.host_address(memory.data()) + offset, there.view.data,
                there.view.bytes);
    there.view.data = memory.data() + offset;
    there.pinned = false;
    there.on_device = true;

    const InputPart parts[] = {host.parts()[0], there};
    gpus.standin.clear_log();
    check_same(run(*lanes, {.parts = parts, .requests = 2, .rows = 3}), wanted);
    CHECK(gpus.standin.count("copy_on_device") == 1);

    gpus.standin.clear_log();
    const auto alone = run(*lanes, {.parts = {&there, 1}, .requests = 1, .rows = 2});
    const auto rows = content(wanted[0]);
    CHECK(content(alone[0]) == std::vector<std::byte>(rows.begin() + 4000, rows.end()));
    // In place, unless its address does not suit the kernels.
    CHECK(gpus.standin.count("copy_on_device") == (offset == 0 ? 0 : 1));
    CHECK(gpus.standin.count("copy_to_device") == 0);
  }
}

TEST_CASE("inputs that the host has to see are taken from there only") {
  Gpus gpus;
  CHECK_FALSE(gpus.load("identity_bytes")->takes_device_memory());
  CHECK_FALSE(gpus.load("passthrough")->takes_device_memory());  // an output that is an input
}

TEST_CASE("the options of the providers, and memory that comes back") {
  Gpus gpus;
  {
    OrtOptions options = gpus.options();
    options.gpu_memory_bytes = 1 << 30;
    options.cuda_options = {{"cudnn_conv_use_max_workspace", "0"},
                            {"arena_extend_strategy", "kNextPowerOfTwo"}};
    auto runner = gpus.load("tiny", options);
    auto& cuda = gpus.table().cuda_options;
    CHECK(cuda["device_id"] == "0");
    CHECK(cuda["has_user_compute_stream"] == "1");
    CHECK(cuda["cudnn_conv_algo_search"] == "HEURISTIC");
    CHECK(cuda["gpu_mem_limit"] == std::to_string(1 << 30));
    CHECK(cuda["cudnn_conv_use_max_workspace"] == "0");
    CHECK(cuda["arena_extend_strategy"] == "kNextPowerOfTwo");  // in the place of our default
    CHECK_FALSE(cuda.contains("enable_cuda_graph"));
    CHECK(gpus.table().appended == std::vector<std::string>{"cuda"});
    auto lanes = Gpus::lanes(*runner, 2);
    Parts parts(gpus.pool, DType::kFp32, {16});
    parts.add(3, 1);
    run(*lanes, parts.batch());
    CHECK(gpus.device_pool().stats().in_use_bytes > 0);
    CHECK(gpus.standin.alive("streams") == 3);

    options.tensorrt = TensorRtOptions{.precision = "fp16",
                                       .cache = "/cache",
                                       .others = {{"trt_builder_optimization_level", "2"}}};
    gpus.load("tiny", options);
    const std::map<std::string, std::string> wanted = {{"trt_fp16_enable", "1"},
                                                       {"trt_engine_cache_enable", "1"},
                                                       {"trt_engine_cache_path", "/cache"},
                                                       {"trt_builder_optimization_level", "2"}};
    for (const auto& [key, value] : wanted) CHECK(gpus.table().tensorrt_options[key] == value);
    CHECK(gpus.table().appended == std::vector<std::string>{"cuda", "tensorrt", "cuda"});
  }
  CHECK(gpus.device_pool().stats().in_use_bytes == 0);
  CHECK(gpus.device_pool().stats().cached_bytes == 0);
  CHECK(gpus.table().released == 2);
  CHECK(gpus.standin.alive("streams") == 0);
  CHECK(gpus.standin.alive("events") == 0);
}

TEST_CASE("one session, with its weights, on each of several GPUs") {
  Gpus gpus(2);
  auto runner = gpus.load("identity_fp32");
  REQUIRE(runner->devices().size() == 2);
  CHECK(to_string(runner->devices()[1]) == "cuda:1");
  Parts parts(gpus.pool, DType::kFp32, {100});
  parts.add(2, 1);
  std::vector<std::byte> bytes;
  const TensorView whole[] = {parts.whole(bytes)};
  for (std::size_t device = 0; device < 2; ++device) {
    gpus.standin.clear_log();
    auto lanes = runner->create_lanes(device, {.lanes = 2, .row_buckets = {}});
    REQUIRE(lanes);
    check_same(run(**lanes, parts.batch()), gpus.on_cpu("identity_fp32", whole, 2));
    for (const auto& record : gpus.standin.log()) {
      if (std::string(record.what) == "kernel") CHECK(record.device == static_cast<int>(device));
    }
  }
}

TEST_CASE("a library that does not tell where it wants its inputs waits until they are there") {
  Gpus gpus;
  gpus.table().tells_places = false;
  gpus.reopen();
  auto runner = gpus.load("half_plus_two");
  auto lanes = Gpus::lanes(*runner, 1);
  Parts numbers(gpus.pool, DType::kFp32, {});
  numbers.add(2, 1).add(1, 5);
  std::vector<std::byte> bytes;
  const TensorView whole[] = {numbers.whole(bytes)};
  gpus.standin.clear_log();
  check_same(run(*lanes, numbers.batch()), gpus.on_cpu("half_plus_two", whole, 3));
  CHECK(gpus.standin.count("cuEventSynchronize") == 2);
  const int bound = gpus.table().bindings;
  check_same(run(*lanes, numbers.batch()), gpus.on_cpu("half_plus_two", whole, 3));
  CHECK(gpus.table().bindings == bound + 1);  // it might have copied it
}
