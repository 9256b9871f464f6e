#pragma once

#include <cstddef>

namespace servolley::testing {

// Trips of this thread to the global operator new (any form), counted by counting_new_test.cc.
std::size_t allocations_of_this_thread();

}  // namespace servolley::testing
