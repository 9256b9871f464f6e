#pragma once

#include <cstdint>

namespace servolley::testing {

// Trips of the whole process to the global operator new, counted by allocations_test.cc.
std::uint64_t allocations();
// How many of them a shortage has refused.
std::uint64_t refused_allocations();

// While it lives one in `n` allocations fails, on every thread but the one that made it.
class Shortage {
 public:
  explicit Shortage(unsigned n);
  ~Shortage();
  Shortage(const Shortage&) = delete;
  Shortage& operator=(const Shortage&) = delete;
};

}  // namespace servolley::testing
