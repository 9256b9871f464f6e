// Calls every slot that ort_abi.h declares, through a table whose functions count their calls: a
// slot with a wrong number or wrong parameters does not survive this, and one that nothing calls
// does not belong in the list.

#include <array>
#include <atomic>
#include <string>
#include <vector>

#include "runtime/fixture.h"
#include "runtime/ort/ort_library.h"
#include "runtime/ort/ort_session.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

struct SlotCount {
  std::size_t slot;
  std::string name;
  const std::atomic<int>* calls;
};

template <std::size_t Slot, class R, class... A>
struct Counted {
  static inline R (*real)(A...) = nullptr;
  static inline std::atomic<int> calls{0};
  static R call(A... arguments) {
    calls.fetch_add(1);
    return real(arguments...);
  }
};

template <std::size_t Slot, class R, class... A>
SlotCount count_calls(const char* name, R (*&function)(A...)) {
  using Counter = Counted<Slot, R, A...>;
  Counter::real = function;
  function = &Counter::call;
  return {Slot, name, &Counter::calls};
}

void run_once(Runner& runner, std::span<const TensorView> inputs) {
  const auto executor = Runtime::executor_of(runner);
  std::vector<OutputTensor> outputs(runner.signature().outputs.size());
  const Status status = executor->run(inputs, 0, outputs);
  CHECK_MESSAGE(status.ok(), status.message());
}

}  // namespace

TEST_CASE("every declared slot is called and does what its name says") {
  auto opened = open_table(library_path());
  REQUIRE(opened);
  abi::Functions counted = opened->functions;
  std::vector<SlotCount> slots;
#define SERVOLLEY_COUNT(slot, name, result, ...) \
  slots.push_back(count_calls<slot>(#name, counted.name));
  SERVOLLEY_ORT_SLOTS(SERVOLLEY_COUNT)
#undef SERVOLLEY_COUNT
  if (counted.input_memory) {
    slots.push_back(count_calls<abi::kInputMemorySlot>("input_memory", counted.input_memory));
    slots.push_back(count_calls<abi::kOutputMemorySlot>("output_memory", counted.output_memory));
  }
  if (counted.has_shape) {
    slots.push_back(count_calls<abi::kHasShapeSlot>("has_shape", counted.has_shape));
  }

  Pool pool(cpu_device(), {});
  {
    auto created = Library::create(counted, opened->version, std::size_t{64} << 20);
    REQUIRE(created);
    const std::shared_ptr<OrtLibrary> library = *created;
    OrtOptions options;
    options.pool = &pool;
    options.intra_op_threads = 2;  // one that the library starts
    options.load_niceness = 1;     // in our way
    const auto load = [&](const char* name) {
      auto runner = load_model(library, model_path(name), options);
      REQUIRE(runner);
      return *runner;
    };
    (void)load("external_inside");  // by its path
    // Bound outputs, an inferred shape, an error, strings in and out, an output that the runtime
    // allocates; and the two switches that are off by default.
    const std::vector<float> row(16, 1.0F);
    const TensorView good[] = {floats({1, 16}, row)};
    run_once(*load("tiny"), good);
    const std::string packed = pack({"a", "bc"});
    const TensorView strings[] = {bytes_of({1, 2}, packed)};
    run_once(*load("identity_bytes"), strings);
    const TensorView hits[] = {floats({4, 4}, row)};
    run_once(*load("nonzero"), hits);
    run_once(*load("scalar"), std::vector{floats({}, {1.0F})});
    options.memory_arena = false;
    options.memory_pattern = true;
    run_once(*load("tiny"), good);
    const TensorView bad[] = {floats({4, 4}, row)};
    const auto executor = Runtime::executor_of(*load("tiny"));
    std::vector<OutputTensor> outputs(1);
    CHECK(executor->run(bad, 0, outputs).code() == Code::kInvalidArgument);

    // The CUDA slots answer "not in this build" where there is no such provider, but they answer.
    // Without the provider they all refuse; the last reads its options first, so it gets zeros.
    abi::SessionOptions* session_options = nullptr;
    REQUIRE_FALSE(counted.create_session_options(&session_options));
    abi::CudaOptions* cuda = nullptr;
    const char* key = "device_id";
    const char* value = "0";
    alignas(64) std::array<std::byte, 4096> zeros{};
    const bool built_in = (*created)->has_provider("CUDAExecutionProvider");
    abi::Error* errors[] = {
        counted.create_cuda_options(&cuda), counted.update_cuda_options(cuda, &key, &value, 1),
        counted.append_cuda(session_options,
                            built_in ? cuda : reinterpret_cast<abi::CudaOptions*>(zeros.data()))};
    for (abi::Error* error : errors) {
      if (!built_in) CHECK(error != nullptr);
      if (!error) continue;
      CHECK(std::string(counted.error_message(error)) != "");
      counted.release_error(error);
    }
    abi::TensorRtOptions* tensorrt = nullptr;
    abi::Error* more[] = {
        counted.create_tensorrt_options(&tensorrt),
        counted.update_tensorrt_options(tensorrt, &key, &value, 1),
        counted.append_tensorrt(
            session_options,
            built_in ? tensorrt : reinterpret_cast<abi::TensorRtOptions*>(zeros.data()))};
    for (abi::Error* error : more) {
      if (!built_in) CHECK(error != nullptr);
      if (error) counted.release_error(error);
    }
    counted.release_tensorrt_options(tensorrt);
    counted.release_cuda_options(cuda);
    counted.release_session_options(session_options);

    // Where things are: on the CPU, here.
    abi::MemoryInfo* cuda_memory = nullptr;
    REQUIRE_FALSE(counted.create_memory_info(abi::kCudaMemory, abi::kDeviceAllocator, 0,
                                             abi::kDefaultMemory, &cuda_memory));
    const char* memory_name = nullptr;
    REQUIRE_FALSE(counted.memory_info_name(cuda_memory, &memory_name));
    CHECK(std::string(memory_name) == abi::kCudaMemory);
    counted.release_memory_info(cuda_memory);
    if (counted.input_memory) {
      auto model = LoadedModel::load(*created, model_path("two_inputs"), options);
      REQUIRE(model);
      const auto check_on_cpu = [&](auto query) {
        const abi::MemoryInfo* places[2] = {};
        REQUIRE_FALSE(query((*model)->session(), places, 2));
        for (const abi::MemoryInfo* place : places) {
          REQUIRE(place != nullptr);
          REQUIRE_FALSE(counted.memory_info_name(place, &memory_name));
          CHECK(std::string(memory_name) == "Cpu");
        }
      };
      check_on_cpu(counted.input_memory);
      check_on_cpu(counted.output_memory);
    }
  }
  for (const SlotCount& slot : slots) {
    CAPTURE(slot.slot);
    CAPTURE(slot.name);
    CHECK(slot.calls->load() > 0);
  }
}
