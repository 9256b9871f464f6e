#pragma once

// What the stand-in driver exports beside the driver's own functions, for tests: it can be told to
// be slow, to hold work back and to fail, and it tells what it did. Settings may also come from the
// environment, for processes that a test starts: SERVOLLEY_STANDIN holds what standin_configure()
// takes, SERVOLLEY_STANDIN_LOG a file to which every record is appended as one line.

#include <stddef.h>

struct CUstream_st;

extern "C" {

enum { kStandinBegin = 0, kStandinEnd = 1 };

// One thing that began or ended. `what` is "copy_to_device", "copy_to_host", "copy_on_device",
// "fill", "host_function" or a kernel's name for work of a stream; the driver function's name
// ("cuEventSynchronize", ...) or "pageable_copy" where the host waited for the device.
struct standin_record {
  unsigned long long time_ns;  // steady clock
  unsigned long long bytes;
  int phase;
  int device;
  int stream;  // number of the stream, from 1 on; 0 = no stream
  int thread;  // who ran it or waited
  char what[32];
};

// X(name, result, parameters)
#define STANDIN_FUNCTIONS(X)                                                                       \
  /* As after the start of the process; what a broken device has kept is gone. */                  \
  X(standin_reset, void, (void))                                                                   \
  /* "key=value,...": devices, memory (bytes of each), version (12040), init (cuInit's result), */ \
  /* copy_us, bytes_per_us, kernel_us, guard (1 = the host cannot touch device memory), */         \
  /* fail=WHAT:SKIP:TIMES:RESULT, hold=WHAT. 0, or -1 if it is not understood. */                  \
  X(standin_configure, int, (const char* settings))                                                \
  /* WHAT (a driver function, or work of a stream) fails `times` times after `skip` successes. */  \
  X(standin_fail, void, (const char* what, int skip, int times, int result))                       \
  /* Work of this kind does not begin until it is released. */                                     \
  X(standin_hold, void, (const char* what))                                                        \
  X(standin_release, void, (const char* what))                                                     \
  /* Until the log has `count` such records: 1, or 0 when the time is over. */                     \
  X(standin_wait, int, (const char* what, int phase, int count, int timeout_ms))                   \
  X(standin_log, size_t, (struct standin_record * out, size_t capacity))                           \
  X(standin_clear_log, void, (void))                                                               \
  /* A kernel that takes kernel_us, or `us` if that is not negative; calls the function, if any.   \
   */                                                                                              \
  X(standin_launch, int,                                                                           \
    (struct CUstream_st * stream, const char* name, void (*function)(void*), void* argument,       \
     int us))                                                                                      \
  /* A capture in the global mode, as ONNX Runtime makes them; its graph is destroyed at the end.  \
   */                                                                                              \
  X(standin_begin_capture, int, (struct CUstream_st * stream))                                     \
  X(standin_end_capture, int, (struct CUstream_st * stream))                                       \
  /* How many calls were wrong (freed memory, dead streams, no context), and the first of them. */ \
  X(standin_misuse, int, (char* text, size_t capacity))                                            \
  X(standin_forget_misuse, void, (void))                                                           \
  /* cuIpcGetMemHandle, in whatever context the memory is. */                                      \
  X(standin_export, int, (void* device_memory, void* handle))                                      \
  /* "device_bytes", "host_bytes", "registered", "streams", "events", "graphs", "mappings",        \
   * "contexts": alive now. */                                                                     \
  X(standin_alive, size_t, (const char* what))                                                     \
  /* Where the host finds device memory (the same place unless it is guarded). */                  \
  X(standin_host_address, void*, (void* device_memory))

#define STANDIN_DECLARE(name, result, parameters) result name parameters;
STANDIN_FUNCTIONS(STANDIN_DECLARE)
#undef STANDIN_DECLARE
}
