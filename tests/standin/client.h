#pragma once

// The stand-in driver as a test sees it: the very library that the code under test opens.

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

#include "standin.h"

namespace servolley::testing {

class Standin {
 public:
  // Opens it and starts afresh.
  Standin() {
    void* const library = ::dlopen(path(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const auto resolve = [&](auto& function, const char* name) {
      function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(
          library ? ::dlsym(library, name) : nullptr);
      if (!function) {
        std::fprintf(stderr, "no %s in %s\n", name, path());
        std::abort();
      }
    };
#define STANDIN_RESOLVE(name, result, parameters) resolve(name##_, #name);
    STANDIN_FUNCTIONS(STANDIN_RESOLVE)
#undef STANDIN_RESOLVE
    standin_reset_();
  }
  ~Standin() { standin_reset_(); }
  Standin(const Standin&) = delete;
  Standin& operator=(const Standin&) = delete;

  static const char* path() { return SERVOLLEY_STANDIN; }

  bool configure(const std::string& settings) { return standin_configure_(settings.c_str()) == 0; }
  void fail(const char* what, int result, int skip = 0, int times = 1) {
    standin_fail_(what, skip, times, result);
  }
  void hold(const char* what) { standin_hold_(what); }
  void release(const char* what) { standin_release_(what); }
  // Until `count` of them have begun (ended) since the log was cleared; false after ten seconds.
  bool begun(const char* what, int count = 1) { return wait(what, kStandinBegin, count, 10'000); }
  bool ended(const char* what, int count = 1) { return wait(what, kStandinEnd, count, 10'000); }
  bool wait(const char* what, int phase, int count, int timeout_ms) {
    return standin_wait_(what, phase, count, timeout_ms) == 1;
  }
  std::vector<standin_record> log() {
    std::vector<standin_record> out(standin_log_(nullptr, 0));
    out.resize(std::min(out.size(), standin_log_(out.data(), out.size())));
    return out;
  }
  int count(std::string_view what, int phase = kStandinBegin) {
    int found = 0;
    for (const auto& record : log()) found += record.phase == phase && what == record.what;
    return found;
  }
  void clear_log() { standin_clear_log_(); }
  int launch(CUstream_st* stream, const char* name, void (*function)(void*) = nullptr,
             void* argument = nullptr, int us = -1) {
    return standin_launch_(stream, name, function, argument, us);
  }
  int begin_capture(CUstream_st* stream) { return standin_begin_capture_(stream); }
  int end_capture(CUstream_st* stream) { return standin_end_capture_(stream); }
  // The first wrong call; empty if there was none.
  std::string misuse() {
    char text[256] = "";
    return standin_misuse_(text, sizeof(text)) ? text : "";
  }
  void forget_misuse() { standin_forget_misuse_(); }
  std::size_t alive(const char* what) { return standin_alive_(what); }
  std::byte* host_address(std::byte* device_memory) {
    return static_cast<std::byte*>(standin_host_address_(device_memory));
  }
  // The IPC handle of an allocation of this process.
  std::array<std::byte, 64> own_handle(std::byte* device_memory) {
    std::array<std::byte, 64> handle{};
    if (standin_export_(device_memory, handle.data()) != 0) std::abort();
    return handle;
  }

 private:
#define STANDIN_MEMBER(name, result, parameters) result(*name##_) parameters = nullptr;
  STANDIN_FUNCTIONS(STANDIN_MEMBER)
#undef STANDIN_MEMBER
};

}  // namespace servolley::testing
