#include "runtime/fixture.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

TEST_CASE("the signature carries names, types, shapes and names of dimensions") {
  Runtime runtime;
  const auto runner = runtime.load("tiny");
  CHECK(runner->platform() == "onnxruntime_onnx");
  const Signature& tiny = runner->signature();
  REQUIRE(tiny.inputs.size() == 1);
  REQUIRE(tiny.outputs.size() == 1);
  CHECK(tiny.inputs[0].name == "INPUT0");
  CHECK(tiny.inputs[0].dtype == DType::kFp32);
  CHECK(tiny.inputs[0].shape == Shape{-1, 16});
  CHECK(tiny.inputs[0].dim_names == std::vector<std::string>{"batch", ""});
  CHECK(tiny.outputs[0].name == "OUTPUT0");
  CHECK_FALSE(tiny.batched);  // the engine decides
  CHECK(tiny.batchable());

  const auto pair = runtime.load("identity_pair");
  CHECK(pair->signature().inputs[1].dtype == DType::kBytes);
  const auto fixed = runtime.load("fixed_batch");
  CHECK(fixed->signature().inputs[0].shape == Shape{1, 4});
  CHECK_FALSE(fixed->signature().batchable());
  const auto hits = runtime.load("nonzero");
  CHECK(hits->signature().outputs[0].shape == Shape{2, -1});
  CHECK_FALSE(runtime.load("sequence_first")->signature().batchable());
  const auto nameless = runtime.load("row_sums");
  CHECK(nameless->signature().inputs[0].dim_names == std::vector<std::string>{"", ""});
  CHECK(nameless->signature().batchable());
}

TEST_CASE("every datatype of the protocol comes through") {
  Runtime runtime;
  for (std::size_t i = 0; i < kDTypeCount; ++i) {
    const auto dtype = static_cast<DType>(i);
    std::string name = "identity_";
    for (const char c : oip_name(dtype)) name += static_cast<char>(std::tolower(c));
    CAPTURE(name);
    const auto runner = runtime.load(name);
    CHECK(runner->signature().inputs[0].dtype == dtype);
    CHECK(runner->signature().outputs[0].dtype == dtype);
  }
}

TEST_CASE("a scalar is told from a tensor without a declared shape where the library can") {
  Runtime runtime;
  const auto unknown = runtime.load("unknown_rank");
  CHECK_FALSE(unknown->signature().inputs[0].rank_known);
  CHECK(unknown->signature().inputs[0].shape.rank() == 0);
  const auto scalar = runtime.load("scalar");
  CHECK(scalar->signature().inputs[0].shape.rank() == 0);
  int minor = 0;
  REQUIRE(std::sscanf(runtime.library->version().c_str(), "1.%d", &minor) == 1);
  CHECK(scalar->signature().inputs[0].rank_known == (minor >= 24));
}

TEST_CASE("inputs and outputs that the protocol cannot carry are refused by name") {
  Runtime runtime;
  const auto sequence = runtime.try_load("sequence_output");
  REQUIRE_FALSE(sequence);
  CHECK(sequence.error().code() == Code::kInvalidArgument);
  CHECK(sequence.error().message().find("'probabilities'") != std::string::npos);
  CHECK(sequence.error().message().find("zipmap") != std::string::npos);
  const auto narrow = runtime.try_load("float8_input");
  REQUIRE_FALSE(narrow);
  CHECK(narrow.error().code() == Code::kInvalidArgument);
  CHECK(narrow.error().message().find("'narrow'") != std::string::npos);
  CHECK(narrow.error().message().find("float8e4m3fn") != std::string::npos);
  const auto deep = runtime.try_load("rank17");
  REQUIRE_FALSE(deep);
  CHECK(deep.error().code() == Code::kInvalidArgument);
}
