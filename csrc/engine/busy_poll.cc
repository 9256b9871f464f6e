#include "engine/busy_poll.h"

#include <poll.h>

#include <algorithm>
#include <array>

namespace servolley::engine {

void BusyPoll::answered(int fd, int others) {
  answered_ = Clock::now();
  if (longest_ == Duration::zero() || fd < 0 || quick_ < needed_) return;
  std::array<pollfd, 2> wanted{{{fd, POLLIN, 0}, {others, POLLIN, 0}}};
  do {
    const int ready = ::poll(wanted.data(), wanted.size(), 0);
    if (ready > 0) {
      needed_ = kFewest;
      return;
    }
    if (ready < 0) break;
  } while (Clock::now() - answered_ < longest_);
  needed_ = std::min(needed_ * 2, kMost);
  quick_ = 0;
}

}  // namespace servolley::engine
