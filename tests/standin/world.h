#pragma once

// A libcuda.so.1 without a GPU behind it: host memory, one thread per stream, events that really
// order work. What it promises is what the driver's documentation promises, no more: work begins as
// late as it may, and every misuse that can be seen is an error and is remembered.

#include <cuda.h>

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "standin.h"

struct CUctx_st {
  int device = 0;
  int retains = 0;
};

struct CUevent_st {
  int device = 0;
  std::uint64_t recorded = 0;  // number of the last record
  std::uint64_t reached = 0;
  bool captured = false;  // recorded last in a stream that captured
  bool alive = true;
};

struct CUgraph_st {
  std::size_t nodes = 0;
  bool alive = true;
};

namespace standin {

using Clock = std::chrono::steady_clock;

// What runs one thing at a time: a device has a copy engine for each direction.
enum class Unit { kUp, kDown, kCompute, kNone };
inline constexpr std::size_t kUnits = 3;

struct Capture {
  CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
  CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;
  int thread = 0;  // who began it
  std::size_t tasks = 0;
};

struct Task {
  std::string what;
  Unit unit = Unit::kNone;
  std::chrono::microseconds least{0};
  std::byte* to = nullptr;
  const std::byte* from = nullptr;
  std::size_t bytes = 0;
  int fill = -1;
  std::vector<std::byte> staged;  // what `from` held when the call was made
  CUhostFn function = nullptr;
  void* argument = nullptr;
  CUevent event = nullptr;   // waited for, or reached by this
  std::uint64_t ticket = 0;  // its record
  bool waits = false;
  bool registered = false;  // from or to pages of the caller's
};

}  // namespace standin

struct CUstream_st {
  int number = 0;
  int device = 0;
  bool alive = true;
  std::uint64_t queued = 0;
  std::uint64_t finished = 0;
  std::deque<standin::Task> tasks;
  standin::Capture capture;
};

namespace standin {

struct Device {
  CUctx_st context;
  std::size_t used_bytes = 0;
  CUresult broken = CUDA_SUCCESS;
  bool busy[kUnits] = {};
};

struct Allocation {
  std::size_t bytes = 0;
  int device = 0;
  int file = -1;  // of what this process has allocated
  std::uint64_t serial = 0;
  std::byte* host = nullptr;  // where the host may touch it
  // Of a mapping of another process's allocation:
  int owner = 0;  // its process
  int mappings = 0;
};

// Pages of the caller's that are pinned.
struct Registered {
  std::size_t bytes = 0;
  std::byte* device = nullptr;  // where the device finds them
};

struct Settings {
  int devices = 1;
  std::size_t memory = std::size_t{1} << 30;
  int version = 12040;
  int init = 0;
  int copy_us = 0;
  std::size_t bytes_per_us = 0;  // 0 = no limit
  int kernel_us = 0;
  bool guard = false;
};

struct Failure {
  std::string what;
  int skip = 0;
  int times = 0;
  CUresult result = CUDA_SUCCESS;
};

struct World {
  World();
  static World& get();

  // All of it with the mutex held.
  int configure(const std::string& text);
  Device& device(int index);
  void log(const std::string& what, int phase, int device, int stream, std::size_t bytes);
  void misused(const std::string& text);
  CUresult take_failure(const std::string& what);
  // The allocation with all of [at, at + bytes), or null.
  const Allocation* find(const void* at, std::size_t bytes) const;
  bool pinned(const void* at, std::size_t bytes) const;
  // Where the host may touch what lies at an address of either kind.
  std::byte* host_address(const void* at) const;
  // What [at, at + bytes) lies in, or null.
  const std::pair<const std::uintptr_t, Registered>* registration(const void* at,
                                                                  std::size_t bytes) const;
  bool ready(const CUstream_st& stream);
  // Waits for everything queued in a stream so far, as the host would.
  CUresult finish(std::unique_lock<std::mutex>& lock, CUstream_st& stream);
  void finish_device(std::unique_lock<std::mutex>& lock, int device);
  // Into the stream, or into what it captures.
  CUresult enqueue(CUstream_st& stream, Task task);
  // What the driver calls a potentially unsafe call: refused where a capture forbids it to this
  // thread, and the capture is spoilt by it.
  CUresult unsafe_call();
  // A call that a stream does not allow while it captures: `result`, and the capture is spoilt.
  CUresult spoil(CUstream_st& stream, CUresult result);
  void discard_memory();

  std::mutex mutex;
  std::condition_variable changed;
  Settings settings;
  bool initialized = false;
  std::uint64_t nonce = 0;
  std::uint64_t serial = 0;
  int streams_made = 0;
  int log_file = -1;
  std::deque<Device> devices;
  // Never given back, so that a dead handle is a dead handle and not somebody else's.
  std::deque<CUstream_st> streams;
  std::deque<CUevent_st> events;
  std::deque<CUgraph_st> graphs;
  std::map<std::uintptr_t, Allocation> allocations;
  std::map<std::uintptr_t, std::size_t> host_blocks;
  std::map<std::uintptr_t, Registered> registered;
  std::vector<standin_record> records;
  std::vector<Failure> failures;
  std::vector<std::string> held;
  std::vector<std::string> misuses;
};

// One call of the driver: holds the lock, and knows whether the call is refused before it begins.
class Call {
 public:
  // kSafe: a context, and that no capture forbids the call.
  enum Needs { kNothing, kDriver, kContext, kSafe };
  Call(const char* name, Needs needs);
  CUresult refused() const { return refused_; }
  World& world() { return world_; }
  std::unique_lock<std::mutex>& lock() { return lock_; }
  int device() const { return device_; }
  // Remembers a misuse and returns the result for it.
  CUresult wrong(CUresult result, const std::string& text);
  // A stream, or an event, of the current context that is alive.
  CUresult check(CUstream stream);
  CUresult check(CUevent event);
  // Whether the stream may wait for the event, which both are alive.
  CUresult check(CUstream stream, CUevent event);

 private:
  World& world_ = World::get();
  std::unique_lock<std::mutex> lock_{world_.mutex};
  const std::string name_;
  int device_ = 0;
  CUresult refused_ = CUDA_SUCCESS;
};

// The host waits for the device: begins and ends in the log.
class HostWait {
 public:
  HostWait(World& world, std::string what, int device, int stream, std::size_t bytes = 0);
  ~HostWait();
  HostWait(const HostWait&) = delete;
  HostWait& operator=(const HostWait&) = delete;

 private:
  World& world_;
  const std::string what_;
  const int device_;
  const int stream_;
  const std::size_t bytes_;
};

bool breaks_context(CUresult result);
// The context that is current for this thread.
CUcontext& current_context();
CUstreamCaptureMode& thread_capture_mode();
// Whether this thread runs a stream's host function.
bool& in_host_function();
// What the thread of a stream does.
void run_stream(CUstream_st& stream);

}  // namespace standin
