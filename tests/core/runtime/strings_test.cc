#include "runtime/fixture.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

TEST_CASE("strings of any bytes pass both ways") {
  Runtime runtime;
  auto executor = runtime.executor("identity_bytes");
  std::string every_byte;
  for (int i = 0; i < 256; ++i) every_byte += static_cast<char>(i);
  const std::vector<std::vector<std::string>> cases = {
      {"one"},
      {"", "", ""},
      {"", "x", ""},
      {std::string("nul\0inside", 10), every_byte, "\xff\xfe"},
      {std::string(1'000'000, 'y'), "short", std::string(70'000, 'z')},
  };
  for (int again = 0; again < 2; ++again) {
    for (const auto& elements : cases) {
      const std::string packed = pack(elements);
      std::vector<OutputTensor> outputs(1);
      const TensorView inputs[] = {
          bytes_of({1, static_cast<std::int64_t>(elements.size())}, packed)};
      const Status status = executor->run(inputs, 1, outputs);
      REQUIRE_MESSAGE(status.ok(), status.message());
      CHECK(outputs[0].view.dtype == DType::kBytes);
      CHECK(outputs[0].view.shape == inputs[0].shape);
      CHECK((text_of(outputs[0]) == packed));
    }
  }
  std::vector<OutputTensor> outputs(1);
  const TensorView empty[] = {TensorView{DType::kBytes, {0, 3}, nullptr, 0}};
  REQUIRE(executor->run(empty, 0, outputs).ok());
  CHECK(outputs[0].view.shape == Shape{0, 3});
  CHECK(outputs[0].view.bytes == 0);
  outputs[0] = {};
  CHECK(runtime.pool.stats().in_use_bytes == 0);
}

TEST_CASE("a packed form that does not hold the shape's elements is refused") {
  Runtime runtime;
  auto executor = runtime.executor("identity_bytes");
  const std::string two = pack({"ab", "c"});
  const std::string lying(
      "\xff\xff\xff\xff"
      "abcd",
      8);
  const struct {
    Shape shape;
    std::string packed;
  } cases[] = {
      {{1, 1}, two},
      {{1, 3}, two},
      {{1, 2}, two.substr(0, two.size() - 1)},
      {{1, 2}, two + 'x'},
      {{1, 2}, two.substr(0, 8)},
      {{1, 1}, lying},
      {{1, 0}, two},
      {{1, 2}, ""},
      {{-1, 2}, two},
      {{std::int64_t{1} << 40, std::int64_t{1} << 40}, two},
      {{std::int64_t{1} << 60, 1}, two},
  };
  std::vector<OutputTensor> outputs(1);
  for (const auto& c : cases) {
    const TensorView inputs[] = {bytes_of(c.shape, c.packed)};
    const Status status = executor->run(inputs, 1, outputs);
    CHECK(status.code() == Code::kInvalidArgument);
    CHECK(status.message().find("'INPUT0'") != std::string::npos);
  }
  const TensorView good[] = {bytes_of({1, 2}, two)};
  CHECK(executor->run(good, 1, outputs).ok());
  CHECK((text_of(outputs[0]) == two));
}

TEST_CASE("strings beside numbers, and the output limit") {
  Runtime runtime;
  auto options = runtime.options();
  options.max_output_bytes = 100;
  auto runner = runtime.load("identity_pair", options);
  auto executor = Runtime::executor_of(*runner);
  const std::string words = pack({"left", "right"});
  const std::vector<float> numbers = {1, 2, 3};
  std::vector<OutputTensor> outputs(2);
  const TensorView inputs[] = {floats({1, 3}, numbers), bytes_of({1, 2}, words)};
  for (int again = 0; again < 3; ++again) {
    REQUIRE(executor->run(inputs, 1, outputs).ok());
    CHECK(values_of<float>(outputs[0]) == numbers);
    CHECK(text_of(outputs[1]) == words);
  }
  const std::string exactly = pack({std::string(96, 'x')});
  const TensorView fits[] = {inputs[0], bytes_of({1, 1}, exactly)};
  CHECK(executor->run(fits, 1, outputs).ok());
  const std::string above = pack({std::string(97, 'x')});
  const TensorView too_large[] = {inputs[0], bytes_of({1, 1}, above)};
  CHECK(executor->run(too_large, 1, outputs).code() == Code::kTooLarge);
  CHECK_FALSE(outputs[0].owner);
  CHECK_FALSE(outputs[1].owner);
}
