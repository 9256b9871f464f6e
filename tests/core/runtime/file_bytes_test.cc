#include "runtime/ort/file_bytes.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

using namespace servolley;
using namespace servolley::ort;

namespace {

class TempFile {
 public:
  explicit TempFile(const std::string& content)
      : path_(std::filesystem::temp_directory_path() /
              ("servolley-file-bytes-" + std::to_string(++count_) + "-" +
               std::to_string(reinterpret_cast<std::uintptr_t>(this)))) {
    std::ofstream(path_, std::ios::binary) << content;
  }
  ~TempFile() { std::filesystem::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  static inline int count_ = 0;
  const std::filesystem::path path_;
};

std::string pattern(std::size_t bytes) {
  std::string out(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) out[i] = static_cast<char>(i * 2'654'435'761U >> 13);
  return out;
}

}  // namespace

TEST_CASE("file bytes: sizes around a piece") {
  constexpr std::size_t kPiece = std::size_t{64} << 10;
  for (const std::size_t bytes : {std::size_t{1}, kPiece - 1, kPiece, kPiece + 1, 3 * kPiece + 7}) {
    const std::string content = pattern(bytes);
    const TempFile file(content);
    const auto read = FileBytes::read(file.path(), bytes);
    REQUIRE(read);
    REQUIRE(read->bytes().size() == bytes);
    CHECK(std::equal(content.begin(), content.end(), read->bytes().begin()));
  }
}

TEST_CASE("file bytes: a file that has shrunk, is empty, is no file or is not there") {
  const TempFile file(pattern(1000));
  CHECK(FileBytes::read(file.path(), 1001).error().code() == Code::kInvalidArgument);
  CHECK(FileBytes::read(file.path() + "-not", 1).error().code() == Code::kInvalidArgument);
  const auto folder = std::filesystem::temp_directory_path().string();
  CHECK(FileBytes::read(folder, 1).error().code() == Code::kInvalidArgument);
  const auto nothing = FileBytes::read(file.path(), 0);
  REQUIRE(nothing);
  CHECK(nothing->bytes().empty());
}

TEST_CASE("file bytes: more than there is memory") {
  const TempFile file("x");
  const auto read = FileBytes::read(file.path(), std::size_t{1} << 50);
  REQUIRE_FALSE(read);
  CHECK(read.error().code() == Code::kResourceExhausted);
}

TEST_CASE("file bytes: moved, the content goes along") {
  const std::string content = pattern(5000);
  const TempFile file(content);
  auto first = FileBytes::read(file.path(), content.size());
  REQUIRE(first);
  FileBytes second = std::move(*first);
  FileBytes third;
  third = std::move(second);
  REQUIRE(third.bytes().size() == content.size());
  CHECK(std::equal(content.begin(), content.end(), third.bytes().begin()));
}
