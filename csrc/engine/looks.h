#pragma once

#include "base/clock.h"

namespace servolley::engine {

// How long those who take a lone request to a device and back look for what comes next before they
// sleep. To be woken takes tens of microseconds each time, on a virtual machine above all, and a
// request passes three of them. A look costs a processor while it lasts, so it is for where there
// are enough, and it ends when others ask as well: then there is work, and nobody sleeps. Zero:
// never.
struct LaneLooks {
  Duration work{0};    // the launching thread for a request, the completing one for its launch
  Duration device{0};  // the completing thread, for the device to be done
  Duration loop{0};    // the loop, for the answer; see BusyPoll
};

// Below that the threads that look would have the processors of those who work.
inline constexpr int kProcessorsForLooks = 4;

// Tells the processor that its thread only waits, so that its twin may go faster.
inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Asks `there` again and again, with pauses, until it says yes: true; or for so long: false.
template <class There>
bool look(Duration longest, const There& there, Duration pause = Duration::zero()) {
  const TimePoint end = Clock::now() + longest;
  while (!there()) {
    TimePoint now = Clock::now();
    if (now >= end) return false;
    const TimePoint next = now + pause;
    do {
      relax();
      now = Clock::now();
    } while (now < next);
  }
  return true;
}

}  // namespace servolley::engine
