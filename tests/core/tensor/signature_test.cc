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
