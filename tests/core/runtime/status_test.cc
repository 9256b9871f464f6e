#include <doctest/doctest.h>

#include "runtime/ort/ort_status.h"

using namespace servolley;
using namespace servolley::ort;

TEST_CASE("messages lose source locations, signatures, code prefixes, folders and stack traces") {
  const struct {
    const char* raw;
    const char* clean;
  } cases[] = {
      {"Got invalid dimensions for input: INPUT0 for the following indices\n index: 1 Got: 15 "
       "Expected: 16\n Please fix either the inputs/outputs or the model.",
       "Got invalid dimensions for input: INPUT0 for the following indices index: 1 Got: 15 "
       "Expected: 16 Please fix either the inputs/outputs or the model."},
      {"Non-zero status code returned while running Mul node. Name:'' Status Message: "
       "/onnxruntime_src/onnxruntime/core/providers/cpu/math/element_wise_ops.h:583 void "
       "onnxruntime::BroadcastIterator::Append(ptrdiff_t, ptrdiff_t) axis == 1 || axis == largest "
       "was false. Attempting to broadcast an axis by a dimension other than 1. 2 by 3\n",
       "Non-zero status code returned while running Mul node. Name:'' Status Message: axis == 1 || "
       "axis == largest was false. Attempting to broadcast an axis by a dimension other than 1. 2 "
       "by 3"},
      {"Status Message: /src/core/framework/op_kernel.cc:87 virtual OrtValue* "
       "onnxruntime::OpKernelContext::OutputMLValue(int, const onnxruntime::TensorShape&) "
       "[ONNXRuntimeError] : 1 : FAIL : tensor.cc:57 CalculateTensorStorageSize Tensor "
       "shape.Size() must be >= 0",
       "Status Message: Tensor shape.Size() must be >= 0"},
      {"Load model from /srv/models/m/1/model.onnx failed:Protobuf parsing failed.",
       "Load model from model.onnx failed:Protobuf parsing failed."},
      {"resolved path: \"/srv/models/secret.bin\" allowed directory: \"srv/models/m/1\"",
       "resolved path: \"secret.bin\" allowed directory: \"1\""},
      {"/s/a.cc:12 onnxruntime::common::Status onnxruntime::F<T>::operator()(int (*)(int)) const "
       "[with T = A<int[3]>] text",
       "text"},
      {"Model x failed. File doesn't exist: /srv/models/x",
       "Model x failed. File doesn't exist: x"},
      {"running Add node. Name:'/layer1/Add' said n/a\nStacktrace:\n/usr/lib/x.so(+0x12)",
       "running Add node. Name:'/layer1/Add' said n/a"},
      {"bad\x01"
       "bell\x7f",
       "bad?bell?"},
      {"/s/a.cc:9", ""},
      {"/s/a.cc:9 f(", "f("},
      {"ends with .cc:", "ends with .cc:"},
      {"", ""},
  };
  for (const auto& c : cases) CHECK(clean_message(c.raw) == std::string(c.clean));
  CHECK(clean_message(std::string(5000, 'x')).size() == 1003);
  // Cut between characters, not inside one (each is two bytes, one byte ahead makes it odd).
  std::string text = "x";
  for (int i = 0; i < 1000; ++i) text += "\xc3\xa9";
  const std::string cut = clean_message(text);
  CHECK(cut.ends_with("\xc3\xa9..."));
}

TEST_CASE("how much an arena refused") {
  CHECK(refused_by_arena("Available memory of 67108864 is smaller than requested bytes of 1000") ==
        1000);
  CHECK(refused_by_arena("x is smaller than requested bytes of 99999999999999999999999") ==
        std::nullopt);
  CHECK(refused_by_arena("is smaller than requested bytes of ") == std::nullopt);
  CHECK(refused_by_arena("Failed to allocate memory for requested buffer of size 7") ==
        std::nullopt);
}

TEST_CASE("codes: who is to blame, while loading and while running") {
  const struct {
    int ort;
    const char* text;
    Phase phase;
    Code code;
  } cases[] = {
      {abi::kInvalidArgument, "Got invalid dimensions", Phase::kRun, Code::kInvalidArgument},
      {abi::kFail, "anything", Phase::kRun, Code::kInternal},
      {abi::kRuntimeException, "anything", Phase::kRun, Code::kInternal},
      {abi::kFail, "Attempting to broadcast an axis by a dimension", Phase::kRun,
       Code::kInvalidArgument},
      {abi::kRuntimeException, "The input tensor cannot be reshaped to the requested shape",
       Phase::kRun, Code::kInvalidArgument},
      {abi::kProviderFail, "Shape mismatch", Phase::kRun, Code::kInternal},
      {abi::kFail, "Failed to allocate memory for requested buffer", Phase::kRun,
       Code::kResourceExhausted},
      {abi::kRuntimeException, "std::bad_alloc", Phase::kRun, Code::kResourceExhausted},
      {abi::kNotImplemented, "no kernel", Phase::kRun, Code::kInternal},
      {abi::kInvalidProtobuf, "x", Phase::kLoad, Code::kInvalidArgument},
      {abi::kInvalidGraph, "x", Phase::kLoad, Code::kInvalidArgument},
      {abi::kNotImplemented, "x", Phase::kLoad, Code::kInvalidArgument},
      {abi::kFail, "x", Phase::kLoad, Code::kInvalidArgument},
      {abi::kNoSuchFile, "x", Phase::kLoad, Code::kNotFound},
      {abi::kEngineError, "x", Phase::kLoad, Code::kInternal},
      {abi::kFail, "std::bad_alloc", Phase::kLoad, Code::kResourceExhausted},
  };
  for (const auto& c : cases) {
    CAPTURE(std::string(c.text));
    CHECK(map_code(c.ort, c.text, c.phase) == c.code);
  }
}
