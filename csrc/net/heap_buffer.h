#pragma once

#include <cstddef>

#include "memory/buffer.h"

namespace servolley::net {

// Memory beside the pool; empty if there is none. A pool that is used up by tensors must not keep
// us from answering: the answers are what will empty it.
Buffer heap_buffer(std::size_t bytes);

}  // namespace servolley::net
