#include <cuda.h>

#include "cuda_fixture.h"
#include "device/cuda/driver.h"
#include "device/cuda/functions.h"

using namespace servolley;
using servolley::testing::CudaFixture;
using servolley::testing::Standin;

namespace {

std::string refusal(Standin& standin, const std::string& settings) {
  REQUIRE(standin.configure(settings));
  const auto driver = cuda::Driver::open(Standin::path());
  REQUIRE_FALSE(driver);
  CHECK(driver.error().code() == Code::kFailedPrecondition);
  return driver.error().message();
}

}  // namespace

TEST_CASE("without a driver, with an old one, and without a GPU: what is wrong is said") {
  const auto none = cuda::Driver::open("libcuda-that-is-not-there.so.1");
  REQUIRE_FALSE(none);
  CHECK(none.error().code() == Code::kFailedPrecondition);
  CHECK(none.error().message().find("there is no NVIDIA driver") == 0);
  CHECK(none.error().message().find("libcuda-that-is-not-there.so.1") != std::string::npos);
  const auto other = cuda::Driver::open("libm.so.6");
  REQUIRE_FALSE(other);
  CHECK(other.error().message() == "'libm.so.6' is not an NVIDIA driver");
  Standin standin;
  CHECK(refusal(standin, "version=11080") ==
        "the NVIDIA driver is made for CUDA 11.8; 12.0 or newer is needed");
  CHECK(refusal(standin, "version=12040,devices=0") == "the NVIDIA driver finds no GPU");
  CHECK(refusal(standin, "devices=1,init=100") == "the NVIDIA driver finds no GPU");
  CHECK(refusal(standin, "init=803").find("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH") !=
        std::string::npos);
  // A result that the driver itself has no name for.
  CHECK(refusal(standin, "init=4242") ==
        "the NVIDIA driver does not start: unknown error (code 4242)");
}

TEST_CASE("devices are listed without a context") {
  Standin standin;
  REQUIRE(standin.configure("devices=2,memory=8589934592"));
  const auto driver = cuda::Driver::open(Standin::path());
  REQUIRE(driver);
  CHECK((*driver)->version() == 12040);
  CHECK((*driver)->device_count() == 2);
  const auto devices = (*driver)->devices();
  REQUIRE(devices);
  REQUIRE(devices->size() == 2);
  CHECK((*devices)[1].index == 1);
  CHECK((*devices)[1].name == "Stand-in GPU 1");
  CHECK((*devices)[1].uuid == "GPU-a0a1a2a3-a4a5-a6a7-a8a9-aaabacadae01");
  CHECK((*devices)[1].total_bytes == 8589934592);
  CHECK((*devices)[1].compute_major == 9);
  CHECK((*devices)[1].compute_minor == 0);
  CHECK(standin.alive("contexts") == 0);
  standin.fail("cuDeviceGetName", CUDA_ERROR_UNKNOWN);
  CHECK_FALSE((*driver)->devices());
}

TEST_CASE("a GPU is opened once, closed when nobody holds it, and an index that is none is told") {
  Standin standin;
  REQUIRE(standin.configure("devices=2"));
  const auto driver = cuda::Driver::open(Standin::path());
  REQUIRE(driver);
  {
    const auto one = (*driver)->gpu(1);
    const auto same = (*driver)->gpu(1);
    const auto other = (*driver)->gpu(0);
    REQUIRE(one);
    REQUIRE(same);
    REQUIRE(other);
    CHECK(*one == *same);
    CHECK(*one != *other);
    CHECK(to_string((*one)->id()) == "cuda:1");
    CHECK(standin.alive("contexts") == 2);
  }
  CHECK(standin.alive("contexts") == 0);
  for (const int bad : {-1, 2, 999}) {
    const auto gpu = (*driver)->gpu(bad);
    REQUIRE_FALSE(gpu);
    CHECK(gpu.error().code() == Code::kFailedPrecondition);
    CHECK(gpu.error().message() ==
          "there is no cuda:" + std::to_string(bad) + "; the NVIDIA driver finds 2 GPUs");
  }
  standin.fail("cuDevicePrimaryCtxRetain", CUDA_ERROR_OUT_OF_MEMORY);
  const auto full = (*driver)->gpu(0);
  REQUIRE_FALSE(full);
  CHECK(full.error().code() == Code::kResourceExhausted);
  CHECK((*driver)->gpu(0));
  CHECK(standin.misuse() == "");
}

TEST_CASE("every function that is called is one that the stand-in has") {
  const CudaFixture cuda;
  const cuda::Functions& functions = cuda.driver->functions();
  int count = 0;
#define SERVOLLEY_CUDA_PRESENT(name, symbol) \
  CHECK(static_cast<bool>(functions.name));  \
  ++count;
  SERVOLLEY_CUDA_FUNCTIONS(SERVOLLEY_CUDA_PRESENT)
#undef SERVOLLEY_CUDA_PRESENT
  CHECK(count > 30);
}
