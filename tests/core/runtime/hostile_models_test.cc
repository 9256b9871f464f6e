#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "runtime/fixture.h"
#include "runtime/ort/external_data.h"

using namespace servolley;
using namespace servolley::ort;
using namespace servolley::ort::testing;

namespace {

std::string read_all(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

// A model file in a folder of its own that is gone with the object.
class ModelFile {
 public:
  ModelFile() {
    std::string name = (std::filesystem::temp_directory_path() / "servolley-model-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()));
    folder_ = name;
  }
  ~ModelFile() { std::filesystem::remove_all(folder_); }
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;
  std::string path() const { return (folder_ / "model.onnx").string(); }
  void write(const std::string& content) const {
    std::ofstream(path(), std::ios::binary | std::ios::trunc) << content;
  }

 private:
  std::filesystem::path folder_;
};

void quiet(int, std::string_view) {}

}  // namespace

TEST_CASE("no file is NOT_FOUND; no model is INVALID_ARGUMENT; neither says where we looked") {
  Runtime runtime;
  set_log_sink(&quiet);
  const ModelFile file;
  const auto missing = load_model(runtime.library, file.path(), runtime.options());
  REQUIRE_FALSE(missing);
  CHECK(missing.error().code() == Code::kNotFound);
  const auto folder = load_model(runtime.library, std::filesystem::temp_directory_path().string(),
                                 runtime.options());
  REQUIRE_FALSE(folder);
  CHECK(folder.error().code() == Code::kInvalidArgument);

  std::mt19937 random(1);
  std::string noise(4096, '\0');
  for (char& c : noise) c = static_cast<char>(random());
  for (const std::string& content :
       {std::string(), std::string("\n"), std::string("not a model at all"), noise,
        std::string("\x08\x09"), std::string(1 << 20, '\0'),
        std::string("\x3a\xff\xff\xff\xff\x7f"), std::string("\x3a\x00", 2)}) {
    file.write(content);
    const auto runner = load_model(runtime.library, file.path(), runtime.options());
    REQUIRE_FALSE(runner);
    CHECK(runner.error().code() == Code::kInvalidArgument);
    CHECK(runner.error().message().find("servolley-model-") == std::string::npos);
  }
  set_log_sink(nullptr);
}

TEST_CASE("a model cut off anywhere or with any byte changed loads or is refused, never worse") {
  Runtime runtime;
  set_log_sink(&quiet);
  const ModelFile file;
  const std::string good = read_all(model_path("tiny"));
  REQUIRE(good.size() > 100);
  std::size_t refused = 0;
  for (std::size_t length = 0; length < good.size(); length += 7) {
    file.write(good.substr(0, length));
    const auto runner = load_model(runtime.library, file.path(), runtime.options());
    if (runner) continue;
    ++refused;
    CAPTURE(length);
    CHECK(runner.error().code() == Code::kInvalidArgument);
  }
  CHECK(refused > good.size() / 14);

  std::mt19937 random(2);
  for (int round = 0; round < 300; ++round) {
    std::string changed = good;
    for (int i = 0; i < 3; ++i) changed[random() % changed.size()] = static_cast<char>(random());
    file.write(changed);
    const auto runner = load_model(runtime.library, file.path(), runtime.options());
    if (runner) continue;
    CAPTURE(round);
    CAPTURE(runner.error().message());
    CHECK((runner.error().code() == Code::kInvalidArgument ||
           runner.error().code() == Code::kResourceExhausted));
  }
  set_log_sink(nullptr);
}

TEST_CASE("weights in another file are read inside the model's folder only") {
  Runtime runtime;
  auto runner = runtime.load("external_inside");
  auto executor = Runtime::executor_of(*runner);
  std::vector<OutputTensor> outputs(1);
  const std::vector<float> row = {10, 20, 30, 40};
  const TensorView inputs[] = {floats({1, 4}, row)};
  REQUIRE(executor->run(inputs, 1, outputs).ok());
  CHECK(values_of<float>(outputs[0]) == std::vector<float>{11, 22, 33, 44});

  for (const char* name : {"external_outside", "external_absolute", "external_in_subgraph"}) {
    CAPTURE(std::string(name));
    const auto refused = runtime.try_load(name);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code() == Code::kInvalidArgument);
    CHECK(refused.error().message().find("outside its own folder") != std::string::npos);
  }
}

TEST_CASE("the check on locations") {
  for (const char* good : {"weights.bin", "a/b.bin", "./w", "a..b", "..w", "w..", "a/..b/c"}) {
    CHECK(stays_inside(good));
  }
  for (const char* bad : {"", "/etc/shadow", "../w", "..", "a/../b", "a/..", "./../w", "a\\..\\b",
                          "*/_ORT_MEM_ADDR_/*"}) {
    CAPTURE(std::string(bad));
    CHECK_FALSE(stays_inside(bad));
  }
  CHECK_FALSE(stays_inside(std::string_view("a\0b", 3)));
}

TEST_CASE("the check looks into every place that holds tensors, and into no nesting without end") {
  const auto field = [](int number, const std::string& content) {
    std::string bytes;
    const auto varint = [&](std::size_t value) {
      for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
      bytes += static_cast<char>(value);
    };
    varint(static_cast<std::size_t>(number) << 3 | 2);
    varint(content.size());
    return bytes + content;
  };
  const auto verdict = [](const std::string& model) {
    return check_external_data(std::span<const char>(model.data(), model.size()));
  };
  const std::string tensor = field(13, field(1, "location") + field(2, "../weights"));
  const std::string harmless = field(13, field(1, "location") + field(2, "weights"));
  const std::string attribute = field(5, tensor);  // AttributeProto.t
  // Field numbers on the way from the model to a tensor.
  const std::vector<std::vector<int>> ways = {
      {7, 5},            // graph.initializer
      {7, 15, 1},        // graph.sparse_initializer.values
      {7, 15, 2},        // ... .indices
      {7, 1, 5, 5},      // graph.node.attribute.t
      {7, 1, 5, 10},     // ... .tensors
      {7, 1, 5, 22, 1},  // ... .sparse_tensor.values
      {7, 1, 5, 23, 2},  // ... .sparse_tensors.indices
      {7, 1, 5, 6, 5},   // ... .g.initializer
      {7, 1, 5, 11, 5},  // ... .graphs.initializer
      {25, 7, 5, 5},     // functions.node.attribute.t
      {25, 11, 5},       // functions.attribute_proto.t
      {20, 1, 5},        // training_info.initialization.initializer
      {20, 2, 5},        // training_info.algorithm.initializer
  };
  for (const auto& way : ways) {
    std::string bad = tensor;
    std::string good = harmless;
    for (auto number = way.rbegin(); number != way.rend(); ++number) {
      bad = field(*number, bad);
      good = field(*number, good);
    }
    CAPTURE(way.size());
    REQUIRE_FALSE(verdict(bad));
    CHECK(verdict(bad).error().code() == Code::kInvalidArgument);
    REQUIRE(verdict(good));
    CHECK(*verdict(good));
  }
  const auto none = verdict(field(7, field(5, field(8, "name"))));
  REQUIRE(none);
  CHECK_FALSE(*none);
  // The last of several values counts, as everywhere in protobuf.
  CHECK_FALSE(verdict(field(
      7, field(5, field(13, field(1, "location") + field(2, "fine") + field(2, "/etc/shadow"))))));
  std::string deep = tensor;
  for (int i = 0; i < 10'000; ++i) deep = field(1, field(5, field(6, deep)));
  REQUIRE_FALSE(verdict(field(7, deep)));
  CHECK(verdict(field(7, deep)).error().code() == Code::kInvalidArgument);
}
