#include "device/cuda/driver.h"

#include <dlfcn.h>

#include <array>
#include <utility>

#include "device/cuda/functions.h"
#include "device/cuda/gpu.h"

namespace servolley::cuda {
namespace {

Status unusable(std::string message) { return {Code::kFailedPrecondition, std::move(message)}; }

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

std::string describe_result(const Functions& functions, CUresult result) {
  const char* name = nullptr;
  const char* text = nullptr;
  functions.error_name(result, &name);
  functions.error_text(result, &text);
  // A driver that is newer than its caller answers with codes that the caller does not know, never
  // the other way round; but who knows.
  std::string out = text ? text : "unknown error";
  out += " (";
  out += name ? name : "code " + std::to_string(static_cast<int>(result));
  return out += ')';
}

std::string uuid_text(const CUuuid& uuid) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string out = "GPU";
  for (std::size_t i = 0; i < sizeof(uuid.bytes); ++i) {
    if (i == 0 || i == 4 || i == 6 || i == 8 || i == 10) out += '-';
    const auto byte = static_cast<unsigned char>(uuid.bytes[i]);
    out += kDigits[byte >> 4];
    out += kDigits[byte & 15];
  }
  return out;
}

}  // namespace

Driver::Driver(std::unique_ptr<const Functions> functions, int version, int device_count)
    : functions_(std::move(functions)),
      version_(version),
      device_count_(device_count),
      gpus_(static_cast<std::size_t>(device_count)) {}

Driver::~Driver() = default;

Result<std::shared_ptr<Driver>> Driver::open(const std::string& path) {
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (!library) {
    const char* reason =
        ::dlerror();  // NOLINT(concurrency-mt-unsafe): the C library keeps one per thread
    return unusable("there is no NVIDIA driver: cannot open '" + path +
                    "': " + (reason ? reason : "unknown reason"));
  }
  // The version first: an old driver lacks some of the functions, and should be told its age.
  const auto get_version =
      reinterpret_cast<decltype(&::cuDriverGetVersion)>(::dlsym(library, "cuDriverGetVersion"));
  int version = 0;
  if (!get_version || get_version(&version) != CUDA_SUCCESS) {
    return unusable("'" + path + "' is not an NVIDIA driver");
  }
  if (version < kOldestVersion) {
    return unusable("the NVIDIA driver is made for CUDA " + version_text(version) + "; " +
                    version_text(kOldestVersion) + " or newer is needed");
  }
  auto functions = std::make_unique<Functions>();
  const char* missing = nullptr;
  const auto resolve = [&](auto& function, const char* symbol) {
    function =
        reinterpret_cast<std::remove_reference_t<decltype(function)>>(::dlsym(library, symbol));
    if (!function && !missing) missing = symbol;
  };
#define SERVOLLEY_CUDA_RESOLVE(name, symbol) resolve(functions->name, #symbol);
  SERVOLLEY_CUDA_FUNCTIONS(SERVOLLEY_CUDA_RESOLVE)
#undef SERVOLLEY_CUDA_RESOLVE
  if (missing) {
    return unusable("the NVIDIA driver for CUDA " + version_text(version) + " has no " + missing);
  }
  int count = 0;
  CUresult result = functions->init(0);
  if (result == CUDA_SUCCESS) result = functions->device_count(&count);
  if (result == CUDA_ERROR_NO_DEVICE || (result == CUDA_SUCCESS && count <= 0)) {
    return unusable("the NVIDIA driver finds no GPU");
  }
  if (result != CUDA_SUCCESS) {
    return unusable("the NVIDIA driver does not start: " + describe_result(*functions, result));
  }
  return std::shared_ptr<Driver>(new Driver(std::move(functions), version, count));
}

std::string Driver::describe(int result) const {
  return describe_result(*functions_, static_cast<CUresult>(result));
}

Result<DeviceInfo> Driver::device_info(int index) const {
  const auto check = [&](CUresult result) {
    return result == CUDA_SUCCESS
               ? Status()
               : unusable("the NVIDIA driver does not describe cuda:" + std::to_string(index) +
                          ": " + describe(result));
  };
  DeviceInfo info;
  info.index = index;
  CUdevice device = 0;
  SERVOLLEY_TRY(check(functions_->device(&device, index)));
  std::array<char, 256> name{};
  SERVOLLEY_TRY(check(functions_->device_name(name.data(), name.size() - 1, device)));
  info.name = name.data();
  CUuuid uuid{};
  SERVOLLEY_TRY(check(functions_->device_uuid(&uuid, device)));
  info.uuid = uuid_text(uuid);
  SERVOLLEY_TRY(check(functions_->device_memory(&info.total_bytes, device)));
  SERVOLLEY_TRY(check(functions_->device_attribute(
      &info.compute_major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)));
  SERVOLLEY_TRY(check(functions_->device_attribute(
      &info.compute_minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)));
  return info;
}

Result<std::vector<DeviceInfo>> Driver::devices() const {
  std::vector<DeviceInfo> out;
  for (int index = 0; index < device_count_; ++index) {
    auto info = device_info(index);
    if (!info) return std::move(info).error();
    out.push_back(std::move(*info));
  }
  return out;
}

Result<std::shared_ptr<Gpu>> Driver::gpu(int index) {
  if (index < 0 || index >= device_count_) {
    return unusable("there is no cuda:" + std::to_string(index) + "; the NVIDIA driver finds " +
                    std::to_string(device_count_) + (device_count_ == 1 ? " GPU" : " GPUs"));
  }
  // Held while the context is made: only who opens a device waits here.
  const std::lock_guard lock(mutex_);
  auto& slot = gpus_[static_cast<std::size_t>(index)];
  if (auto gpu = slot.lock()) return gpu;
  auto info = device_info(index);
  if (!info) return std::move(info).error();
  CUdevice device = 0;
  CUresult result = functions_->device(&device, index);
  CUcontext context = nullptr;
  if (result == CUDA_SUCCESS) result = functions_->retain_primary_context(&context, device);
  if (result != CUDA_SUCCESS) {
    const Code code =
        result == CUDA_ERROR_OUT_OF_MEMORY ? Code::kResourceExhausted : Code::kFailedPrecondition;
    return Status(code, "cuda:" + std::to_string(index) + " cannot be used: " + describe(result));
  }
  std::shared_ptr<Gpu> gpu(new Gpu(shared_from_this(), std::move(*info), device, context));
  slot = gpu;
  return gpu;
}

}  // namespace servolley::cuda
