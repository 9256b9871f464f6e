#pragma once

#include <cstdint>

#include "base/clock.h"

namespace servolley::engine {

// Whether to look for a client's next request for a moment before the loop goes to sleep. Waking up
// costs more processor time than such a look (tens of microseconds, mostly because another process
// or nobody had the core meanwhile), so for a client that asks again at once, looking is cheaper
// and much faster. The same goes for an answer that a device is about to bring. It is done only
// where it keeps paying off: for a client that talks alone, after a row of quick requests, and ever
// more rarely where the look was in vain.
class BusyPoll {
 public:
  explicit BusyPoll(Duration longest) : longest_(longest) {}

  // A client that talks alone has sent a request.
  void asked(TimePoint now) { quick_ = now - looked_ <= kQuickFactor * longest_ ? quick_ + 1 : 0; }
  // Somebody else has, too.
  void disturbed() { quick_ = 0; }
  // It has been answered, or is being answered elsewhere. Waits for more on `fd`, but for `others`,
  // too (-1: none), if it seems worth while. Whether there is any.
  bool look(int fd, int others);

 private:
  // Waking up takes time itself, so a client that is quick enough seems slower while it is slept.
  static constexpr int kQuickFactor = 4;
  static constexpr std::uint32_t kFewest = 8;
  static constexpr std::uint32_t kMost = 1 << 14;

  const Duration longest_;  // zero: never
  TimePoint looked_{};
  std::uint32_t quick_ = 0;         // requests in a row that came soon after the last
  std::uint32_t needed_ = kFewest;  // of them before the next look
};

}  // namespace servolley::engine
