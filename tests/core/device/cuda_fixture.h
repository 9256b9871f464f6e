#pragma once

#include <doctest/doctest.h>

#include <memory>
#include <string>
#include <utility>

#include "client.h"
#include "device/cuda/driver.h"
#include "device/cuda/gpu.h"
#include "device/cuda/stream.h"
#include "memory_of.h"

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
      for (const char* what : {"device_bytes", "host_bytes", "registered", "streams", "events",
                               "graphs", "mappings", "contexts"}) {
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

}  // namespace servolley::testing
