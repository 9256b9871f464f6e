#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace servolley::batching {

// Which of several instances takes the next batch: of those with a free lane, the one with the
// fewest rows under way. Pure, like the queue.
class Placement {
 public:
  void add(int lanes);
  void launched(std::size_t instance, std::uint64_t rows);
  void finished(std::size_t instance, std::uint64_t rows);
  // The instance takes nothing any more.
  void retire(std::size_t instance);

  // Nothing while no instance has a free lane.
  std::optional<std::size_t> next() const;
  bool has_free_lane(std::size_t instance) const { return loads_[instance].free > 0; }
  // True once every instance is retired.
  bool none_left() const;

 private:
  struct Load {
    std::uint64_t rows = 0;
    int free = 0;
    bool retired = false;
  };
  std::vector<Load> loads_;
};

}  // namespace servolley::batching
