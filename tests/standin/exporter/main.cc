// Another process with device memory: standin_exporter DRIVER BYTES VALUE prints the IPC
// handle of an allocation filled with VALUE, in hexadecimal, and keeps it until its input ends;
// then it prints the first byte that it finds in it.

#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

void must(bool good, const char* what) {
  if (good) return;
  std::fprintf(stderr, "exporter: %s\n", what);
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  must(argc >= 4, "usage: standin_exporter DRIVER BYTES VALUE");
  void* const driver = ::dlopen(argv[1], RTLD_NOW);
  must(driver != nullptr, "no driver");
#define LOAD(name) const auto name##_ = reinterpret_cast<decltype(&::name)>(::dlsym(driver, #name))
  LOAD(cuInit);
  LOAD(cuDevicePrimaryCtxRetain);
  LOAD(cuCtxSetCurrent);
  LOAD(cuMemAlloc_v2);
  LOAD(cuMemcpyHtoD_v2);
  LOAD(cuMemcpyDtoH_v2);
  LOAD(cuIpcGetMemHandle);
#undef LOAD
  const std::size_t bytes = std::strtoull(argv[2], nullptr, 10);
  must(cuInit_(0) == CUDA_SUCCESS, "cuInit");
  CUcontext context = nullptr;
  must(cuDevicePrimaryCtxRetain_(&context, 0) == CUDA_SUCCESS, "context");
  must(cuCtxSetCurrent_(context) == CUDA_SUCCESS, "current");
  CUdeviceptr memory = 0;
  must(cuMemAlloc_v2_(&memory, bytes) == CUDA_SUCCESS, "memory");
  const std::vector<unsigned char> content(bytes, static_cast<unsigned char>(std::atoi(argv[3])));
  must(cuMemcpyHtoD_v2_(memory, content.data(), bytes) == CUDA_SUCCESS, "copy");
  CUipcMemHandle handle;
  must(cuIpcGetMemHandle_(&handle, memory) == CUDA_SUCCESS, "handle");
  for (const char byte : handle.reserved) std::printf("%02x", static_cast<unsigned char>(byte));
  std::printf("\n");
  std::fflush(stdout);
  while (std::getchar() != EOF) {
  }
  unsigned char first = 0;
  must(cuMemcpyDtoH_v2_(&first, memory, 1) == CUDA_SUCCESS, "copy back");
  std::printf("%d\n", first);
  return 0;
}
