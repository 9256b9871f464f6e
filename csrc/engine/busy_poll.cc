#include "engine/busy_poll.h"

#include <poll.h>

#include <algorithm>
#include <array>

namespace servolley::engine {

bool BusyPoll::look(int fd, int others) {
  looked_ = Clock::now();
  if (longest_ == Duration::zero() || fd < 0 || quick_ < needed_) return false;
  std::array<pollfd, 2> wanted{{{fd, POLLIN, 0}, {others, POLLIN, 0}}};
  do {
    const int ready = ::poll(wanted.data(), wanted.size(), 0);
    if (ready > 0) {
      needed_ = kFewest;
      return true;
    }
    if (ready < 0) break;
  } while (Clock::now() - looked_ < longest_);
  needed_ = std::min(needed_ * 2, kMost);
  quick_ = 0;
  return false;
}

}  // namespace servolley::engine
