// Device memory, pinned host memory, and mappings of other processes' device memory.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "world.h"

using namespace standin;

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::uint64_t kMagic = 0x31564454'534c5253;

// What a CUipcMemHandle holds. The memory is a file without a name, which other processes of the
// same user reach through /proc for as long as its owner holds it.
struct Handle {
  std::uint64_t magic;
  std::uint64_t nonce;
  std::uint64_t serial;
  std::uint64_t bytes;
  std::int32_t process;
  std::int32_t file;
  std::int32_t device;
  std::int32_t reserved;
  std::uint64_t check;
  std::uint64_t rest;
};
static_assert(sizeof(Handle) == sizeof(CUipcMemHandle));

std::uint64_t check_of(const Handle& handle) {
  return handle.magic * 31 ^ handle.nonce * 37 ^ handle.serial * 41 ^ handle.bytes * 43 ^
         static_cast<std::uint64_t>(handle.process) * 47 ^
         static_cast<std::uint64_t>(handle.file) * 53 ^
         static_cast<std::uint64_t>(handle.device) * 59;
}

std::size_t in_pages(std::size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

// Whether there is something to pin: the kernel says so without a signal.
bool page_is_there(std::byte* page) {
  std::byte byte{};
  const iovec to{&byte, 1};
  const iovec from{page, 1};
  return ::process_vm_readv(::getpid(), &to, 1, &from, 1, 0) == 1;
}

std::string file_name(std::uint64_t nonce, std::uint64_t serial) {
  char name[64];
  std::snprintf(name, sizeof(name), "standin-%016llx-%llu", static_cast<unsigned long long>(nonce),
                static_cast<unsigned long long>(serial));
  return name;
}

// Maps the file where the driver's caller sees it, and (the same place, or another if that one is
// guarded) where the host may touch it.
std::byte* map_file(const Settings& settings, int file, std::size_t bytes, std::byte** host) {
  const int access = PROT_READ | PROT_WRITE;
  void* at =
      ::mmap(nullptr, in_pages(bytes), settings.guard ? PROT_NONE : access, MAP_SHARED, file, 0);
  if (at == MAP_FAILED) return nullptr;
  void* touchable = at;
  if (settings.guard) touchable = ::mmap(nullptr, in_pages(bytes), access, MAP_SHARED, file, 0);
  if (touchable == MAP_FAILED) {
    ::munmap(at, in_pages(bytes));
    return nullptr;
  }
  *host = static_cast<std::byte*>(touchable);
  return static_cast<std::byte*>(at);
}

void unmap(std::uintptr_t at, const Allocation& allocation) {
  void* const address = reinterpret_cast<void*>(at);
  if (allocation.host != address) ::munmap(allocation.host, in_pages(allocation.bytes));
  ::munmap(address, in_pages(allocation.bytes));
  if (allocation.file >= 0) ::close(allocation.file);
}

// The file behind a handle, if it still is the one that the handle means.
int open_file(const Handle& handle) {
  char path[64];
  std::snprintf(path, sizeof(path), "/proc/%d/fd/%d", handle.process, handle.file);
  const std::string wanted = "/memfd:" + file_name(handle.nonce, handle.serial) + " (deleted)";
  char target[160];
  const ssize_t length = ::readlink(path, target, sizeof(target));
  if (length < 0 || std::string(target, static_cast<std::size_t>(length)) != wanted) return -1;
  return ::open(path, O_RDWR | O_CLOEXEC);
}

}  // namespace

void World::discard_memory() {
  for (const auto& [at, allocation] : allocations) unmap(at, allocation);
  for (const auto& [at, bytes] : host_blocks) std::free(reinterpret_cast<void*>(at));
  allocations.clear();
  host_blocks.clear();
  registered.clear();
  for (Device& device : devices) device.used_bytes = 0;
}

extern "C" {

CUresult cuMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  *total_bytes = call.world().settings.memory;
  *free_bytes = *total_bytes - call.world().device(call.device()).used_bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr* out, size_t bytes) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  World& world = call.world();
  Device& device = world.device(call.device());
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  if (bytes > world.settings.memory - device.used_bytes) return CUDA_ERROR_OUT_OF_MEMORY;
  Allocation allocation;
  allocation.bytes = bytes;
  allocation.device = call.device();
  allocation.serial = ++world.serial;
  allocation.file = ::memfd_create(file_name(world.nonce, allocation.serial).c_str(), MFD_CLOEXEC);
  if (allocation.file < 0 ||
      ::ftruncate(allocation.file, static_cast<off_t>(in_pages(bytes))) != 0) {
    if (allocation.file >= 0) ::close(allocation.file);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  std::byte* const at = map_file(world.settings, allocation.file, bytes, &allocation.host);
  if (!at) {
    ::close(allocation.file);
    return CUDA_ERROR_OUT_OF_MEMORY;
  }
  std::memset(allocation.host, 0xa5, bytes);  // what a device hands out is not zero
  device.used_bytes += bytes;
  world.allocations.emplace(reinterpret_cast<std::uintptr_t>(at), allocation);
  *out = reinterpret_cast<CUdeviceptr>(at);
  return CUDA_SUCCESS;
}

CUresult cuMemFree(CUdeviceptr pointer) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  World& world = call.world();
  const auto at = world.allocations.find(static_cast<std::uintptr_t>(pointer));
  if (at == world.allocations.end() || at->second.owner != 0) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not an allocation of this process");
  }
  const HostWait wait(world, __func__, at->second.device, 0, at->second.bytes);
  world.finish_device(call.lock(), at->second.device);
  world.device(at->second.device).used_bytes -= at->second.bytes;
  unmap(at->first, at->second);
  world.allocations.erase(at);
  return CUDA_SUCCESS;
}

CUresult cuMemGetAddressRange(CUdeviceptr* base, size_t* bytes, CUdeviceptr pointer) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  auto next = call.world().allocations.upper_bound(static_cast<std::uintptr_t>(pointer));
  if (next == call.world().allocations.begin()) return CUDA_ERROR_NOT_FOUND;
  --next;
  if (pointer - next->first >= next->second.bytes) return CUDA_ERROR_NOT_FOUND;
  if (base) *base = static_cast<CUdeviceptr>(next->first);
  if (bytes) *bytes = next->second.bytes;
  return CUDA_SUCCESS;
}

CUresult cuMemHostAlloc(void** out, size_t bytes, unsigned int) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (bytes == 0) return CUDA_ERROR_INVALID_VALUE;
  *out = std::aligned_alloc(kPage, in_pages(bytes));
  if (!*out) return CUDA_ERROR_OUT_OF_MEMORY;
  call.world().host_blocks.emplace(reinterpret_cast<std::uintptr_t>(*out), bytes);
  return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void* block) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  World& world = call.world();
  const auto at = world.host_blocks.find(reinterpret_cast<std::uintptr_t>(block));
  if (at == world.host_blocks.end()) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not a block of pinned memory");
  }
  const HostWait wait(world, __func__, call.device(), 0, at->second);
  for (int device = 0; device < static_cast<int>(world.devices.size()); ++device) {
    world.finish_device(call.lock(), device);
  }
  world.host_blocks.erase(at);
  std::free(block);
  return CUDA_SUCCESS;
}

CUresult cuMemHostRegister(void* pages, size_t bytes, unsigned int) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  World& world = call.world();
  const auto address = reinterpret_cast<std::uintptr_t>(pages);
  if (bytes == 0 || address % kPage != 0) return CUDA_ERROR_INVALID_VALUE;
  if (world.registration(pages, 1)) return CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED;
  auto* const first = static_cast<std::byte*>(pages);
  for (std::size_t at = 0; at < bytes; at += kPage) {
    if (!page_is_there(first + at)) return CUDA_ERROR_INVALID_VALUE;
  }
  Registered entry{.bytes = bytes, .device = first};
  if (world.settings.guard) {
    // The same pages once more for the device, so that whoever touches the caller's ends there.
    void* const again = ::mremap(pages, 0, in_pages(bytes), MREMAP_MAYMOVE);
    if (again == MAP_FAILED) return CUDA_ERROR_OUT_OF_MEMORY;
    ::mprotect(pages, in_pages(bytes), PROT_NONE);
    entry.device = static_cast<std::byte*>(again);
  }
  world.registered.emplace(address, entry);
  return CUDA_SUCCESS;
}

CUresult cuMemHostUnregister(void* pages) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  World& world = call.world();
  const auto at = world.registered.find(reinterpret_cast<std::uintptr_t>(pages));
  if (at == world.registered.end()) {
    return call.wrong(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, "not registered");
  }
  const HostWait wait(world, __func__, call.device(), 0, at->second.bytes);
  for (int device = 0; device < static_cast<int>(world.devices.size()); ++device) {
    world.finish_device(call.lock(), device);
  }
  if (at->second.device != pages) ::munmap(at->second.device, in_pages(at->second.bytes));
  world.registered.erase(at);
  return CUDA_SUCCESS;
}

CUresult cuIpcGetMemHandle(CUipcMemHandle* out, CUdeviceptr pointer) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  World& world = call.world();
  const Allocation* allocation = world.find(reinterpret_cast<void*>(pointer), 1);
  if (!allocation || allocation->owner != 0) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not an allocation of this process");
  }
  Handle handle{};
  handle.magic = kMagic;
  handle.nonce = world.nonce;
  handle.serial = allocation->serial;
  handle.bytes = allocation->bytes;
  handle.process = ::getpid();
  handle.file = allocation->file;
  handle.device = allocation->device;
  handle.check = check_of(handle);
  std::memcpy(out, &handle, sizeof(handle));
  return CUDA_SUCCESS;
}

CUresult cuIpcOpenMemHandle(CUdeviceptr* out, CUipcMemHandle native, unsigned int) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  World& world = call.world();
  Handle handle;
  std::memcpy(&handle, &native, sizeof(handle));
  if (handle.magic != kMagic || handle.check != check_of(handle)) return CUDA_ERROR_INVALID_VALUE;
  if (handle.process == ::getpid()) return CUDA_ERROR_INVALID_CONTEXT;
  if (handle.device != call.device()) return CUDA_ERROR_INVALID_DEVICE;
  for (auto& [at, allocation] : world.allocations) {
    if (allocation.owner == handle.process && allocation.serial == handle.serial) {
      ++allocation.mappings;
      *out = static_cast<CUdeviceptr>(at);
      return CUDA_SUCCESS;
    }
  }
  const int file = open_file(handle);
  if (file < 0) return CUDA_ERROR_INVALID_VALUE;
  Allocation mapping;
  mapping.bytes = handle.bytes;
  mapping.device = handle.device;
  mapping.serial = handle.serial;
  mapping.owner = handle.process;
  mapping.mappings = 1;
  std::byte* const at = map_file(world.settings, file, handle.bytes, &mapping.host);
  ::close(file);
  if (!at) return CUDA_ERROR_MAP_FAILED;
  world.allocations.emplace(reinterpret_cast<std::uintptr_t>(at), mapping);
  *out = reinterpret_cast<CUdeviceptr>(at);
  return CUDA_SUCCESS;
}

CUresult cuIpcCloseMemHandle(CUdeviceptr pointer) {
  Call call(__func__, Call::kSafe);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  World& world = call.world();
  const auto at = world.allocations.find(static_cast<std::uintptr_t>(pointer));
  if (at == world.allocations.end() || at->second.owner == 0) {
    return call.wrong(CUDA_ERROR_INVALID_VALUE, "not a mapping");
  }
  if (--at->second.mappings > 0) return CUDA_SUCCESS;
  unmap(at->first, at->second);
  world.allocations.erase(at);
  return CUDA_SUCCESS;
}

}  // extern "C"
