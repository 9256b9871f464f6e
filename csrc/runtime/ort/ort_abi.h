#pragma once

// ONNX Runtime's C interface as far as we call it, in our own words. The library answers
// OrtGetApiBase()->GetApi(version) with a table of function pointers. A function's slot in that
// table never moves and its parameters never change; later versions only append. So the table is
// read by slot number, one wheel of ours works with every library from kApiVersion on, and no
// header of ONNX Runtime is needed to build. A test calls every slot that is listed here.

#include <cstddef>
#include <cstdint>

namespace servolley::ort::abi {

// The lowest version whose table reaches resize_string_element (ONNX Runtime 1.15).
inline constexpr std::uint32_t kApiVersion = 15;
// The lowest version whose table reaches output_memory (ONNX Runtime 1.23). Used where there is
// one.
inline constexpr std::uint32_t kPlacesApiVersion = 23;
// The lowest version whose table reaches has_shape (ONNX Runtime 1.24). Used where there is one.
inline constexpr std::uint32_t kHasShapeApiVersion = 24;

// Handles. A function that returns Error* returns null on success; otherwise the caller releases
// it.
struct Error;
struct Env;
struct Session;
struct SessionOptions;
struct RunOptions;
struct Value;
struct Binding;
struct MemoryInfo;
struct Allocator;
struct TypeInfo;
struct TensorInfo;
struct CudaOptions;
struct TensorRtOptions;
struct ArenaConfig;

enum ErrorCode : int {
  kOk = 0,
  kFail = 1,
  kInvalidArgument = 2,
  kNoSuchFile = 3,
  kNoModel = 4,
  kEngineError = 5,
  kRuntimeException = 6,
  kInvalidProtobuf = 7,
  kModelLoaded = 8,
  kNotImplemented = 9,
  kInvalidGraph = 10,
  kProviderFail = 11,
};

enum ElementType : int {
  kUndefined = 0,
  kFloat = 1,
  kUint8 = 2,
  kInt8 = 3,
  kUint16 = 4,
  kInt16 = 5,
  kInt32 = 6,
  kInt64 = 7,
  kString = 8,
  kBool = 9,
  kFloat16 = 10,
  kDouble = 11,
  kUint32 = 12,
  kUint64 = 13,
  kComplex64 = 14,
  kComplex128 = 15,
  kBfloat16 = 16,
};

enum ValueKind : int { kUnknownKind = 0, kTensorKind = 1 };
enum LogSeverity : int { kVerbose = 0, kInfo = 1, kWarning = 2, kErrorSeverity = 3, kFatal = 4 };
enum AllocatorKind : int { kDeviceAllocator = 0, kArenaAllocator = 1 };
enum MemoryKind : int { kDefaultMemory = 0 };
// The name of a GPU's memory.
inline constexpr const char* kCudaMemory = "Cuda";

// A thread of the runtime's, as we start it.
struct Thread;
using ThreadMain = void (*)(void* parameter);
using ThreadStart = Thread* (*)(void* argument, ThreadMain, void* parameter);
using ThreadJoin = void (*)(Thread*);

using LogFunction = void (*)(void* parameter, int severity, const char* category,
                             const char* log_id, const char* code_location, const char* message);

// X(slot, our name, result, parameters...)
#define SERVOLLEY_ORT_SLOTS(X)                                                                     \
  X(1, error_code, int, const Error*)                                                              \
  X(2, error_message, const char*, const Error*)                                                   \
  X(4, create_env_with_logger, Error*, LogFunction, void* parameter, int severity,                 \
    const char* log_id, Env**)                                                                     \
  X(7, create_session, Error*, const Env*, const char* path, const SessionOptions*, Session**)     \
  X(8, create_session_from_array, Error*, const Env*, const void* model, std::size_t bytes,        \
    const SessionOptions*, Session**)                                                              \
  X(10, create_session_options, Error*, SessionOptions**)                                          \
  X(13, set_execution_mode, Error*, SessionOptions*, int mode)                                     \
  X(16, enable_memory_pattern, Error*, SessionOptions*)                                            \
  X(17, disable_memory_pattern, Error*, SessionOptions*)                                           \
  X(18, enable_memory_arena, Error*, SessionOptions*)                                              \
  X(19, disable_memory_arena, Error*, SessionOptions*)                                             \
  X(23, set_graph_optimization, Error*, SessionOptions*, int level)                                \
  X(24, set_intra_op_threads, Error*, SessionOptions*, int)                                        \
  X(25, set_inter_op_threads, Error*, SessionOptions*, int)                                        \
  X(30, input_count, Error*, const Session*, std::size_t*)                                         \
  X(31, output_count, Error*, const Session*, std::size_t*)                                        \
  X(33, input_type_info, Error*, const Session*, std::size_t index, TypeInfo**)                    \
  X(34, output_type_info, Error*, const Session*, std::size_t index, TypeInfo**)                   \
  X(36, input_name, Error*, const Session*, std::size_t index, Allocator*, char**)                 \
  X(37, output_name, Error*, const Session*, std::size_t index, Allocator*, char**)                \
  X(39, create_run_options, Error*, RunOptions**)                                                  \
  X(41, set_run_log_severity, Error*, RunOptions*, int severity)                                   \
  X(48, create_tensor, Error*, Allocator*, const std::int64_t* dims, std::size_t, int type,        \
    Value**)                                                                                       \
  X(49, wrap_tensor, Error*, const MemoryInfo*, void* data, std::size_t bytes,                     \
    const std::int64_t* dims, std::size_t, int type, Value**)                                      \
  X(51, tensor_data, Error*, Value*, void**)                                                       \
  X(53, string_bytes, Error*, const Value*, std::size_t*)                                          \
  X(54, string_content, Error*, const Value*, void* text, std::size_t bytes, std::size_t* offsets, \
    std::size_t count)                                                                             \
  X(55, as_tensor_info, Error*, const TypeInfo*, const TensorInfo**)                               \
  X(56, value_kind, Error*, const TypeInfo*, int*)                                                 \
  X(60, element_type, Error*, const TensorInfo*, int*)                                             \
  X(61, rank, Error*, const TensorInfo*, std::size_t*)                                             \
  X(62, dims, Error*, const TensorInfo*, std::int64_t*, std::size_t)                               \
  X(63, dim_names, Error*, const TensorInfo*, const char** names, std::size_t)                     \
  X(65, tensor_info, Error*, const Value*, TensorInfo**)                                           \
  X(68, create_memory_info, Error*, const char* name, int allocator_kind, int id, int memory_kind, \
    MemoryInfo**)                                                                                  \
  X(69, create_cpu_memory_info, Error*, int allocator_kind, int memory_kind, MemoryInfo**)         \
  X(71, memory_info_name, Error*, const MemoryInfo*, const char**)                                 \
  X(76, allocator_free, Error*, Allocator*, void*)                                                 \
  X(78, default_allocator, Error*, Allocator**)                                                    \
  X(92, release_env, void, Env*)                                                                   \
  X(93, release_error, void, Error*)                                                               \
  X(94, release_memory_info, void, MemoryInfo*)                                                    \
  X(95, release_session, void, Session*)                                                           \
  X(96, release_value, void, Value*)                                                               \
  X(97, release_run_options, void, RunOptions*)                                                    \
  X(98, release_type_info, void, TypeInfo*)                                                        \
  X(99, release_tensor_info, void, TensorInfo*)                                                    \
  X(100, release_session_options, void, SessionOptions*)                                           \
  X(125, available_providers, Error*, char*** names, int* count)                                   \
  X(126, release_providers, Error*, char** names, int count)                                       \
  X(130, add_session_config, Error*, SessionOptions*, const char* key, const char* value)          \
  X(133, run_with_binding, Error*, Session*, const RunOptions*, const Binding*)                    \
  X(134, create_binding, Error*, Session*, Binding**)                                              \
  X(135, release_binding, void, Binding*)                                                          \
  X(136, bind_input, Error*, Binding*, const char* name, const Value*)                             \
  X(137, bind_output, Error*, Binding*, const char* name, const Value*)                            \
  X(138, bind_output_to_device, Error*, Binding*, const char* name, const MemoryInfo*)             \
  X(140, bound_outputs, Error*, const Binding*, Allocator*, Value***, std::size_t* count)          \
  X(144, register_allocator, Error*, Env*, const MemoryInfo*, const ArenaConfig*)                  \
  X(156, create_arena_config, Error*, std::size_t limit_bytes, int extend_strategy,                \
    int first_chunk_bytes, int dead_bytes, ArenaConfig**)                                          \
  X(157, release_arena_config, void, ArenaConfig*)                                                 \
  X(165, add_run_config, Error*, RunOptions*, const char* key, const char* value)                  \
  X(170, append_tensorrt, Error*, SessionOptions*, const TensorRtOptions*)                         \
  X(171, create_tensorrt_options, Error*, TensorRtOptions**)                                       \
  X(172, update_tensorrt_options, Error*, TensorRtOptions*, const char* const* keys,               \
    const char* const* values, std::size_t)                                                        \
  X(174, release_tensorrt_options, void, TensorRtOptions*)                                         \
  X(196, set_thread_start, Error*, SessionOptions*, ThreadStart)                                   \
  X(197, set_thread_start_argument, Error*, SessionOptions*, void*)                                \
  X(198, set_thread_join, Error*, SessionOptions*, ThreadJoin)                                     \
  X(204, append_cuda, Error*, SessionOptions*, const CudaOptions*)                                 \
  X(205, create_cuda_options, Error*, CudaOptions**)                                               \
  X(206, update_cuda_options, Error*, CudaOptions*, const char* const* keys,                       \
    const char* const* values, std::size_t)                                                        \
  X(208, release_cuda_options, void, CudaOptions*)                                                 \
  X(252, resize_string_element, Error*, Value*, std::size_t index, std::size_t bytes, char**)

using AnyFunction = void (*)();

// What OrtGetApiBase returns.
struct ApiBase {
  const AnyFunction* (*table)(std::uint32_t version);
  const char* (*version)();
};

struct Functions {
#define SERVOLLEY_ORT_MEMBER(slot, name, result, ...) result (*name)(__VA_ARGS__) = nullptr;
  SERVOLLEY_ORT_SLOTS(SERVOLLEY_ORT_MEMBER)
#undef SERVOLLEY_ORT_MEMBER
  // Where the session wants each input and has each output: slots 380 and 381, null in libraries
  // older than kPlacesApiVersion.
  Error* (*input_memory)(const Session*, const MemoryInfo**, std::size_t count) = nullptr;
  Error* (*output_memory)(const Session*, const MemoryInfo**, std::size_t count) = nullptr;
  // Slot 390, null in libraries older than kHasShapeApiVersion.
  bool (*has_shape)(const TensorInfo*) = nullptr;
};
inline constexpr std::size_t kInputMemorySlot = 380;
inline constexpr std::size_t kOutputMemorySlot = 381;
inline constexpr std::size_t kHasShapeSlot = 390;

// `table` is what ApiBase::table(kApiVersion) returned.
inline Functions read_table(const AnyFunction* table) {
  Functions functions;
#define SERVOLLEY_ORT_READ(slot, name, result, ...) \
  functions.name = reinterpret_cast<decltype(functions.name)>(table[slot]);
  SERVOLLEY_ORT_SLOTS(SERVOLLEY_ORT_READ)
#undef SERVOLLEY_ORT_READ
  return functions;
}

}  // namespace servolley::ort::abi
