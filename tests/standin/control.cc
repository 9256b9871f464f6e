// What tests tell the stand-in and ask it.

#include <algorithm>
#include <iterator>
#include <string_view>

#include "standin.h"
#include "world.h"

using namespace standin;

namespace {

int known(const World& world, std::string_view what, int phase) {
  return static_cast<int>(
      std::count_if(world.records.begin(), world.records.end(),
                    [&](const standin_record& r) { return r.phase == phase && what == r.what; }));
}

}  // namespace

extern "C" {

void standin_reset(void) {
  World& world = World::get();
  std::unique_lock lock(world.mutex);
  for (CUstream_st& stream : world.streams) {
    stream.tasks.clear();
    stream.finished = stream.queued;
    stream.alive = false;
    stream.capture = {};
  }
  // What runs just now still needs its memory.
  world.changed.wait(lock, [&] {
    return std::none_of(world.devices.begin(), world.devices.end(), [](const Device& device) {
      return std::find(std::begin(device.busy), std::end(device.busy), true) !=
             std::end(device.busy);
    });
  });
  for (CUevent_st& event : world.events) event.alive = false;
  for (CUgraph_st& graph : world.graphs) graph.alive = false;
  world.discard_memory();
  for (Device& device : world.devices) device.context.retains = 0;
  world.settings = {};
  world.initialized = false;
  world.records.clear();
  world.failures.clear();
  world.held.clear();
  world.misuses.clear();
  for (Device& device : world.devices) device.broken = CUDA_SUCCESS;
  world.changed.notify_all();
}

int standin_configure(const char* settings) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  return world.configure(settings);
}

void standin_fail(const char* what, int skip, int times, int result) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  world.failures.push_back({what, skip, times, static_cast<CUresult>(result)});
}

void standin_hold(const char* what) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  world.held.emplace_back(what);
}

void standin_release(const char* what) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  std::erase(world.held, what);
  world.changed.notify_all();
}

int standin_wait(const char* what, int phase, int count, int timeout_ms) {
  World& world = World::get();
  std::unique_lock lock(world.mutex);
  return world.changed.wait_for(lock, std::chrono::milliseconds(timeout_ms),
                                [&] { return known(world, what, phase) >= count; })
             ? 1
             : 0;
}

size_t standin_log(standin_record* out, size_t capacity) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  std::copy_n(world.records.begin(), std::min(capacity, world.records.size()), out);
  return world.records.size();
}

void standin_clear_log(void) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  world.records.clear();
}

int standin_launch(CUstream stream, const char* name, void (*function)(void*), void* argument,
                   int us) {
  Call call(__func__, Call::kContext);
  if (call.refused() != CUDA_SUCCESS) return call.refused();
  if (const CUresult bad = call.check(stream); bad != CUDA_SUCCESS) return bad;
  Task task;
  task.what = name;
  task.unit = Unit::kCompute;
  task.least = std::chrono::microseconds(us < 0 ? call.world().settings.kernel_us : us);
  task.function = function;
  task.argument = argument;
  return call.world().enqueue(*stream, std::move(task));
}

int standin_begin_capture(CUstream stream) {
  return cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_GLOBAL);
}

int standin_end_capture(CUstream stream) {
  CUgraph graph = nullptr;
  const CUresult ended = cuStreamEndCapture(stream, &graph);
  return graph ? cuGraphDestroy(graph) : ended;
}

int standin_misuse(char* text, size_t capacity) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  if (!world.misuses.empty() && capacity > 0) {
    const std::string& first = world.misuses.front();
    text[first.copy(text, capacity - 1)] = '\0';
  }
  return static_cast<int>(world.misuses.size());
}

void standin_forget_misuse(void) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  world.misuses.clear();
}

int standin_export(void* device_memory, void* handle) {
  return cuIpcGetMemHandle(static_cast<CUipcMemHandle*>(handle),
                           reinterpret_cast<CUdeviceptr>(device_memory));
}

size_t standin_alive(const char* what) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  const std::string_view name = what;
  std::size_t sum = 0;
  if (name == "device_bytes" || name == "mappings") {
    for (const auto& [at, allocation] : world.allocations) {
      if (name == "mappings") sum += static_cast<std::size_t>(allocation.mappings);
      if (name == "device_bytes" && allocation.owner == 0) sum += allocation.bytes;
    }
  } else if (name == "registered") {
    for (const auto& [at, pages] : world.registered) sum += pages.bytes;
  } else if (name == "host_bytes") {
    for (const auto& [at, bytes] : world.host_blocks) sum += bytes;
  } else if (name == "streams") {
    for (const CUstream_st& stream : world.streams) sum += stream.alive;
  } else if (name == "events") {
    for (const CUevent_st& event : world.events) sum += event.alive;
  } else if (name == "graphs") {
    for (const CUgraph_st& graph : world.graphs) sum += graph.alive;
  } else if (name == "contexts") {
    for (const Device& device : world.devices) {
      sum += static_cast<std::size_t>(device.context.retains);
    }
  }
  return sum;
}

void* standin_host_address(void* device_memory) {
  World& world = World::get();
  const std::lock_guard lock(world.mutex);
  return world.host_address(device_memory);
}

}  // extern "C"
