#pragma once

#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "client.h"
#include "device/cuda/driver.h"
#include "device/cuda/gpu.h"
#include "device/cuda/stream.h"

namespace servolley::testing {

// A stand-in with one GPU in use, and nothing left of it afterwards.
struct CudaFixture {
  explicit CudaFixture(const std::string& settings = "") {
    REQUIRE(standin.configure(settings));
    auto opened = cuda::Driver::open(Standin::path());
    REQUIRE(opened);
    driver = std::move(*opened);
    auto first = driver->gpu(0);
    REQUIRE(first);
    gpu = std::move(*first);
  }
  ~CudaFixture() {
    gpu.reset();
    driver.reset();
    CHECK(standin.misuse() == "");
    if (!broken) {
      for (const char* what :
           {"device_bytes", "host_bytes", "streams", "events", "mappings", "contexts"}) {
        CAPTURE(std::string(what));
        CHECK(standin.alive(what) == 0);
      }
    }
  }

  cuda::Stream stream() {
    auto made = gpu->create_stream();
    REQUIRE(made);
    return std::move(*made);
  }
  cuda::Event event() {
    auto made = gpu->create_event();
    REQUIRE(made);
    return std::move(*made);
  }

  Standin standin;
  bool broken = false;  // a broken context keeps what it has
  std::shared_ptr<cuda::Driver> driver;
  std::shared_ptr<cuda::Gpu> gpu;
};

// Memory of the GPU and pinned memory of the host, for as long as a test needs it.
class DeviceBytes {
 public:
  DeviceBytes(cuda::Gpu& gpu, std::size_t bytes)
      : gpu_(gpu), bytes_(bytes), memory_(gpu.allocate(bytes)) {
    REQUIRE(memory_.data);
  }
  ~DeviceBytes() { gpu_.free(memory_, bytes_); }
  DeviceBytes(const DeviceBytes&) = delete;
  DeviceBytes& operator=(const DeviceBytes&) = delete;
  std::byte* data() const { return memory_.data; }

 private:
  cuda::Gpu& gpu_;
  const std::size_t bytes_;
  const Memory memory_;
};

class PinnedBytes {
 public:
  PinnedBytes(cuda::Gpu& gpu, std::size_t bytes, int value = 0)
      : gpu_(gpu), bytes_(bytes), data_(gpu.allocate_pinned(bytes)) {
    REQUIRE(data_);
    std::memset(data_, value, bytes);
  }
  ~PinnedBytes() { gpu_.free_pinned(data_); }
  PinnedBytes(const PinnedBytes&) = delete;
  PinnedBytes& operator=(const PinnedBytes&) = delete;
  std::byte* data() const { return data_; }
  bool all(int value) const {
    for (std::size_t i = 0; i < bytes_; ++i) {
      if (data_[i] != static_cast<std::byte>(value)) return false;
    }
    return true;
  }

 private:
  cuda::Gpu& gpu_;
  const std::size_t bytes_;
  std::byte* const data_;
};

}  // namespace servolley::testing
