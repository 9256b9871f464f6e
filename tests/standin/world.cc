#include "world.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string_view>

namespace standin {

CUcontext& current_context() {
  thread_local CUcontext current = nullptr;
  return current;
}

bool& in_host_function() {
  thread_local bool in = false;
  return in;
}

bool breaks_context(CUresult result) {
  return result == CUDA_ERROR_ECC_UNCORRECTABLE || result == CUDA_ERROR_CONTEXT_IS_DESTROYED ||
         result == CUDA_ERROR_ILLEGAL_ADDRESS || result == CUDA_ERROR_LAUNCH_TIMEOUT ||
         result == CUDA_ERROR_ASSERT || result == CUDA_ERROR_LAUNCH_FAILED;
}

World& World::get() {
  static World* const world = new World;  // outlives the threads of streams
  return *world;
}

World::World() {
  std::random_device random;
  nonce = (std::uint64_t{random()} << 32) | random();
  if (const char* text = std::getenv("SERVOLLEY_STANDIN"); text && configure(text) != 0) {
    std::fprintf(stderr, "SERVOLLEY_STANDIN is not understood: %s\n", text);
    std::abort();
  }
  if (const char* path = std::getenv("SERVOLLEY_STANDIN_LOG")) {
    log_file = ::open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
  }
}

int World::configure(const std::string& text) {
  std::string_view rest = text;
  while (!rest.empty()) {
    const std::string item(rest.substr(0, rest.find(',')));
    rest.remove_prefix(std::min(rest.size(), item.size() + 1));
    const std::size_t equals = item.find('=');
    if (equals == std::string::npos) return -1;
    const std::string key = item.substr(0, equals);
    const std::string value = item.substr(equals + 1);
    if (key == "hold") {
      held.push_back(value);
      continue;
    }
    if (key == "fail") {
      char what[64] = "";
      Failure failure;
      int result = 0;
      if (std::sscanf(value.c_str(), "%63[^:]:%d:%d:%d", what, &failure.skip, &failure.times,
                      &result) != 4) {
        return -1;
      }
      failure.what = what;
      failure.result = static_cast<CUresult>(result);
      failures.push_back(failure);
      continue;
    }
    char* end = nullptr;
    const long long number = std::strtoll(value.c_str(), &end, 10);
    if (value.empty() || *end || number < 0) return -1;
    if (key == "devices") {
      settings.devices = static_cast<int>(number);
    } else if (key == "memory") {
      settings.memory = static_cast<std::size_t>(number);
    } else if (key == "version") {
      settings.version = static_cast<int>(number);
    } else if (key == "init") {
      settings.init = static_cast<int>(number);
    } else if (key == "copy_us") {
      settings.copy_us = static_cast<int>(number);
    } else if (key == "bytes_per_us") {
      settings.bytes_per_us = static_cast<std::size_t>(number);
    } else if (key == "kernel_us") {
      settings.kernel_us = static_cast<int>(number);
    } else if (key == "guard") {
      settings.guard = number != 0;
    } else {
      return -1;
    }
  }
  return 0;
}

Device& World::device(int index) {
  while (devices.size() <= static_cast<std::size_t>(index)) {
    const int next = static_cast<int>(devices.size());
    devices.emplace_back().context.device = next;
  }
  return devices[static_cast<std::size_t>(index)];
}

void World::log(const std::string& what, int phase, int device, int stream, std::size_t bytes) {
  standin_record record{};
  record.time_ns = static_cast<unsigned long long>(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now().time_since_epoch())
          .count());
  record.bytes = bytes;
  record.phase = phase;
  record.device = device;
  record.stream = stream;
  record.thread = ::gettid();
  what.copy(record.what, sizeof(record.what) - 1);
  records.push_back(record);
  if (log_file >= 0) {
    char line[160];
    const int length =
        std::snprintf(line, sizeof(line), "%llu %s %s %d %d %llu %d\n", record.time_ns, record.what,
                      phase ? "end" : "begin", device, stream, record.bytes, record.thread);
    [[maybe_unused]] const auto written = ::write(log_file, line, static_cast<std::size_t>(length));
  }
  changed.notify_all();
}

void World::misused(const std::string& text) { misuses.push_back(text); }

CUresult World::take_failure(const std::string& what) {
  for (Failure& failure : failures) {
    if (failure.what != what || failure.times == 0) continue;
    if (failure.skip > 0) {
      --failure.skip;
      return CUDA_SUCCESS;
    }
    if (failure.times > 0) --failure.times;
    return failure.result;
  }
  return CUDA_SUCCESS;
}

const Allocation* World::find(const void* at, std::size_t bytes) const {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  auto next = allocations.upper_bound(address);
  if (next == allocations.begin()) return nullptr;
  const auto& [base, allocation] = *std::prev(next);
  const std::size_t offset = address - base;
  return offset <= allocation.bytes && bytes <= allocation.bytes - offset ? &allocation : nullptr;
}

bool World::pinned(const void* at, std::size_t bytes) const {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  if (registration(at, bytes)) return true;
  auto next = host_blocks.upper_bound(address);
  if (next == host_blocks.begin()) return false;
  const auto& [base, size] = *std::prev(next);
  return address - base <= size && bytes <= size - (address - base);
}

const std::pair<const std::uintptr_t, Registered>* World::registration(const void* at,
                                                                       std::size_t bytes) const {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  auto next = registered.upper_bound(address);
  if (next == registered.begin()) return nullptr;
  const auto& entry = *std::prev(next);
  const std::size_t before = address - entry.first;
  return before <= entry.second.bytes && bytes <= entry.second.bytes - before ? &entry : nullptr;
}

std::byte* World::host_address(const void* at) const {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  if (const auto* const pages = registration(at, 1)) {
    return pages->second.device + (address - pages->first);
  }
  auto next = allocations.upper_bound(address);
  if (next != allocations.begin()) {
    const auto& [base, allocation] = *std::prev(next);
    if (address - base < allocation.bytes) return allocation.host + (address - base);
  }
  return static_cast<std::byte*>(const_cast<void*>(at));
}

Call::Call(const char* name, Needs needs) : name_(name) {
  if (in_host_function()) {
    refused_ = wrong(CUDA_ERROR_NOT_PERMITTED, "called by a host function");
    return;
  }
  if (needs != kNothing && !world_.initialized) {
    refused_ = CUDA_ERROR_NOT_INITIALIZED;
    return;
  }
  if (needs >= kContext) {
    const CUcontext current = current_context();
    if (!current) {
      refused_ = wrong(CUDA_ERROR_INVALID_CONTEXT, "no context is current");
      return;
    }
    device_ = current->device;
    if (current->retains == 0) {
      refused_ = wrong(CUDA_ERROR_CONTEXT_IS_DESTROYED, "the context is destroyed");
      return;
    }
    refused_ = world_.device(device_).broken;
    if (refused_ != CUDA_SUCCESS) return;
  }
  if (needs == kSafe) refused_ = world_.unsafe_call();
  if (refused_ == CUDA_SUCCESS) refused_ = world_.take_failure(name_);
  if (needs >= kContext && breaks_context(refused_)) {
    world_.device(device_).broken = refused_;
    world_.changed.notify_all();
  }
}

CUresult Call::wrong(CUresult result, const std::string& text) {
  world_.misused(name_ + ": " + text);
  return result;
}

CUresult Call::check(CUstream stream) {
  const auto is_it = [&](const CUstream_st& known) { return &known == stream; };
  if (std::none_of(world_.streams.begin(), world_.streams.end(), is_it) || !stream->alive) {
    return wrong(CUDA_ERROR_INVALID_HANDLE, "no such stream");
  }
  if (stream->device != device_) {
    return wrong(CUDA_ERROR_INVALID_HANDLE, "a stream of another context");
  }
  return CUDA_SUCCESS;
}

CUresult Call::check(CUevent event) {
  const auto is_it = [&](const CUevent_st& known) { return &known == event; };
  if (std::none_of(world_.events.begin(), world_.events.end(), is_it) || !event->alive) {
    return wrong(CUDA_ERROR_INVALID_HANDLE, "no such event");
  }
  return CUDA_SUCCESS;
}

HostWait::HostWait(World& world, std::string what, int device, int stream, std::size_t bytes)
    : world_(world), what_(std::move(what)), device_(device), stream_(stream), bytes_(bytes) {
  world_.log(what_, kStandinBegin, device_, stream_, bytes_);
}

HostWait::~HostWait() { world_.log(what_, kStandinEnd, device_, stream_, bytes_); }

}  // namespace standin
