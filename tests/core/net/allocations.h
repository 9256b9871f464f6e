#pragma once

#include <atomic>
#include <cstddef>

namespace servolley::net {

// Of this whole program: http1_memory_test.cc counts.
inline std::atomic<std::size_t> allocations{0};
inline std::atomic<std::size_t> live_bytes{0};

}  // namespace servolley::net
