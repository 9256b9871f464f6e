#pragma once

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <string>

namespace servolley::shm::testing {

// A shared memory object of a client's, gone at the end.
class Object {
 public:
  explicit Object(std::size_t bytes, const std::string& name = "object")
      : key_("/servolley_test_" + name + "_" + std::to_string(::getpid())),
        fd_(::shm_open(key_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600)) {
    REQUIRE(fd_ >= 0);
    resize(bytes);
  }
  ~Object() {
    ::close(fd_);
    ::shm_unlink(key_.c_str());
  }
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;

  const std::string& key() const { return key_; }
  void resize(std::size_t bytes) { REQUIRE(::ftruncate(fd_, static_cast<off_t>(bytes)) == 0); }
  void put(std::size_t at, const std::string& data) {
    REQUIRE(::pwrite(fd_, data.data(), data.size(), static_cast<off_t>(at)) ==
            static_cast<ssize_t>(data.size()));
  }
  std::string get(std::size_t at, std::size_t bytes) {
    std::string data(bytes, '\0');
    REQUIRE(::pread(fd_, data.data(), bytes, static_cast<off_t>(at)) ==
            static_cast<ssize_t>(bytes));
    return data;
  }

 private:
  const std::string key_;
  const int fd_;
};

inline std::size_t open_descriptors() {
  std::size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    ++count;
  }
  return count;
}

}  // namespace servolley::shm::testing
