#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <string>

#include "device/cuda/gpu.h"

namespace servolley::testing {

using IpcHandle = std::array<std::byte, cuda::kIpcHandleBytes>;

// Another process that has device memory.
class Exporter {
 public:
  Exporter(const char* driver, std::size_t bytes, int value) {
    int in[2];
    int out[2];
    REQUIRE(::pipe(in) == 0);
    REQUIRE(::pipe(out) == 0);
    const std::string size = std::to_string(bytes);
    const std::string fill = std::to_string(value);
    process_ = ::fork();
    REQUIRE(process_ >= 0);
    if (process_ == 0) {
      ::dup2(in[0], 0);
      ::dup2(out[1], 1);
      for (const int fd : {in[0], in[1], out[0], out[1]}) ::close(fd);
      ::execl(SERVOLLEY_STANDIN_EXPORTER, "standin_exporter", driver, size.c_str(), fill.c_str(),
              nullptr);
      ::_exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    input_ = in[1];
    output_ = ::fdopen(out[0], "r");
    for (std::byte& byte : handle) {
      unsigned value_of = 0;
      REQUIRE(std::fscanf(output_, "%2x", &value_of) == 1);
      byte = static_cast<std::byte>(value_of);
    }
  }
  // Ends it; the first byte that it found.
  int end() {
    ::close(input_);
    int first = -1;
    CHECK(std::fscanf(output_, "%d", &first) == 1);
    std::fclose(output_);
    int status = 0;
    CHECK(::waitpid(process_, &status, 0) == process_);
    CHECK(status == 0);
    process_ = -1;
    return first;
  }
  ~Exporter() {
    if (process_ > 0) (void)end();
  }
  Exporter(const Exporter&) = delete;
  Exporter& operator=(const Exporter&) = delete;

  IpcHandle handle{};

 private:
  pid_t process_ = -1;
  int input_ = -1;
  std::FILE* output_ = nullptr;
};

}  // namespace servolley::testing
