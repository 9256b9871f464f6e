#include "tensor/signature.h"

#include <doctest/doctest.h>

using namespace servolley;

namespace {

TensorSpec spec(const char* name, Shape shape, std::vector<std::string> dim_names = {}) {
  TensorSpec made;
  made.name = name;
  made.shape = shape;
  made.dim_names = std::move(dim_names);
  return made;
}

TensorSpec without_rank(const char* name) {
  TensorSpec made = spec(name, {});
  made.rank_known = false;
  return made;
}

}  // namespace

TEST_CASE("inputs and outputs are found by name") {
  Signature signature;
  signature.inputs = {spec("a", {-1}), spec("b", {-1})};
  signature.outputs = {spec("c", {-1})};
  CHECK(signature.input_index("b") == 1);
  CHECK(signature.output_index("c") == 0);
  CHECK_FALSE(signature.input_index("c"));
  CHECK_FALSE(signature.output_index("a"));
  CHECK_FALSE(signature.input_index(""));
}

TEST_CASE("a sent shape must fit the declared one") {
  Signature signature;
  signature.inputs = {spec("x", {-1, 16}), without_rank("any"), spec("scalar", {})};
  const struct {
    std::uint32_t input;
    Shape sent;
    bool fits;
  } cases[] = {
      {0, {1, 16}, true},   {0, {0, 16}, true},     {0, {1000, 16}, true}, {0, {1, 15}, false},
      {0, {16}, false},     {0, {1, 16, 1}, false}, {0, {}, false},        {1, {}, true},
      {1, {3, 4, 5}, true}, {2, {}, true},          {2, {1}, false},
  };
  for (const auto& c : cases) {
    CAPTURE(c.sent.to_string());
    CHECK(signature.check_input(c.input, c.sent, "m").ok() == c.fits);
  }
  const Status status = signature.check_input(0, {16}, "m");
  CHECK(status.code() == Code::kInvalidArgument);
  CHECK(status.message() ==
        "unexpected shape for input 'x' for model 'm'. Expected [-1,16], got [16].");
  signature.batched = true;
  CHECK(signature.check_input(0, {16}, "m").message().find("[1,...]") != std::string::npos);
  CHECK(signature.check_input(0, {1, 15}, "m").message().find("[1,...]") == std::string::npos);
}

TEST_CASE("a declared tensor narrows the model's, or names what differs") {
  using enum BatchDimension;
  const struct {
    Shape model;
    Shape declared;
    BatchDimension batch;
    const char* narrowed;  // nullptr: refused
  } cases[] = {
      {{-1, 4}, {-1, 4}, kDeclared, "[-1,4]"},
      {{-1, -1}, {2, 4}, kDeclared, "[2,4]"},
      {{-1, 4}, {-1, 5}, kDeclared, nullptr},
      {{-1, 4}, {-1, -1}, kDeclared, nullptr},
      {{-1, 4}, {4}, kDeclared, nullptr},
      {{}, {1}, kDeclared, "[]"},
      {{}, {2}, kDeclared, nullptr},
      {{-1, -1}, {4}, kImplied, "[-1,4]"},
      {{-1, 4}, {-1, 4}, kImplied, nullptr},
      {{2, 4}, {4}, kImplied, nullptr},
      {{-1}, {}, kImplied, "[-1]"},
      {{-1, -1}, {4}, kEither, "[-1,4]"},
      {{-1, -1}, {-1, 4}, kEither, "[-1,4]"},
      {{-1, -1}, {3, 4}, kEither, "[3,4]"},
      {{-1, 4}, {}, kEither, nullptr},
  };
  for (const auto& c : cases) {
    CAPTURE(c.model.to_string());
    CAPTURE(c.declared.to_string());
    for (const bool input : {true, false}) {
      Signature signature;
      signature.inputs = {spec("t", c.model)};
      signature.outputs = {spec("t", c.model)};
      const DeclaredTensor declared[] = {{"t", DType::kFp32, c.declared}};
      const std::span<const DeclaredTensor> none;
      const Status status = input ? signature.narrow(declared, none, c.batch)
                                  : signature.narrow(none, declared, c.batch);
      const TensorSpec& out = input ? signature.inputs[0] : signature.outputs[0];
      REQUIRE(status.ok() == (c.narrowed != nullptr));
      if (c.narrowed) CHECK(out.shape.to_string() == c.narrowed);
    }
  }
}

TEST_CASE("what is declared and what there is") {
  const auto narrowed = [](std::vector<DeclaredTensor> inputs,
                           std::vector<DeclaredTensor> outputs = {}) {
    Signature signature;
    signature.inputs = {spec("a", {-1, 4}), without_rank("b")};
    signature.outputs = {spec("y", {-1}), spec("z", {-1})};
    const Status status = signature.narrow(inputs, outputs, BatchDimension::kImplied);
    if (!status.ok()) CHECK(status.code() == Code::kInvalidArgument);
    return status.ok() ? signature.inputs[1].shape.to_string() : status.message();
  };
  const DeclaredTensor a{"a", {}, {}};
  CHECK(narrowed({a, {"b", {}, {}}}, {{"z", DType::kFp32, {}}}) == "[]");
  CHECK(narrowed({a, {"b", {}, Shape{7}}}) == "[-1,7]");
  CHECK(narrowed({a, {"b", DType::kInt64, {}}}) ==
        "the configuration says that input 'b' has the datatype INT64, but the model has FP32");
  CHECK(narrowed({{"a", {}, Shape{5}}, {"b", {}, {}}}) ==
        "the configuration says that input 'a' has the shape [5], with the batch dimension "
        "[-1,5], but the model has [-1,4]");
  CHECK(narrowed({a}) == "the model has an input 'b' that the configuration does not name");
  CHECK(narrowed({a, {"c", {}, {}}}) ==
        "the configuration names an input 'c', but the model has 'a', 'b'");
  CHECK(narrowed({}, {{"x", {}, {}}}) ==
        "the configuration names an output 'x', but the model has 'y', 'z'");
}

TEST_CASE("which signatures may be batched") {
  const struct {
    const char* why;
    std::vector<TensorSpec> inputs;
    std::vector<TensorSpec> outputs;
    bool batchable;
  } cases[] = {
      {"free first dimensions", {spec("x", {-1, 4})}, {spec("y", {-1, 2})}, true},
      {"one dimension", {spec("x", {-1})}, {spec("y", {-1})}, true},
      {"the same name", {spec("x", {-1, 4}, {"n", ""})}, {spec("y", {-1}, {"n"})}, true},
      {"a fresh name on the output",
       {spec("x", {-1, 4}, {"n", ""})},
       {spec("y", {-1}, {"unk_1"})},
       true},
      {"inputs agree",
       {spec("a", {-1, -1}, {"n", "s"}), spec("b", {-1, 4}, {"n", ""})},
       {spec("y", {-1}, {"n"})},
       true},
      {"one input without a name",
       {spec("a", {-1, 4}, {"n", ""}), spec("b", {-1, 4})},
       {spec("y", {-1})},
       true},
      {"no inputs", {}, {spec("y", {-1})}, false},
      {"no outputs", {spec("x", {-1})}, {}, false},
      {"a fixed first dimension", {spec("x", {1, 4})}, {spec("y", {-1})}, false},
      {"a fixed output", {spec("x", {-1, 4})}, {spec("y", {4})}, false},
      {"a zero dimension", {spec("x", {0, 4})}, {spec("y", {-1})}, false},
      {"a scalar input", {spec("x", {-1}), spec("s", {})}, {spec("y", {-1})}, false},
      {"a scalar output", {spec("x", {-1})}, {spec("y", {})}, false},
      {"an unknown rank", {without_rank("x")}, {spec("y", {-1})}, false},
      {"an unknown output rank", {spec("x", {-1})}, {without_rank("y")}, false},
      {"inputs lead with different names",
       {spec("tokens", {-1, -1, 4}, {"sequence", "batch", ""}),
        spec("scale", {-1, 4}, {"batch", ""})},
       {spec("y", {-1, -1}, {"sequence", "batch"})},
       false},
      {"an output leads with an inner name",
       {spec("x", {-1, -1}, {"batch", "sequence"})},
       {spec("y", {-1, 4}, {"sequence", ""})},
       false},
      {"an output leads with the name of a nameless input's inner dimension",
       {spec("x", {-1, -1}, {"", "sequence"})},
       {spec("y", {-1}, {"sequence"})},
       false},
  };
  for (const auto& c : cases) {
    CAPTURE(std::string(c.why));
    Signature signature;
    signature.inputs = c.inputs;
    signature.outputs = c.outputs;
    CHECK(signature.batchable() == c.batchable);
  }
}
