#pragma once

#include <exception>
#include <new>
#include <string>

#include "base/status.h"

namespace servolley::engine {

// Takes no memory: the text is short enough to lie in the string itself.
inline Status out_of_memory() { return {Code::kResourceExhausted, "out of memory"}; }

// Whatever a runtime throws becomes INTERNAL for that batch, and memory that ran out
// RESOURCE_EXHAUSTED. Throws nothing.
template <class Call>
Status guarded(const Call& call) {
  try {
    try {
      return call();
    } catch (const std::bad_alloc&) {
      return out_of_memory();
    } catch (const std::exception& error) {
      return internal_error(std::string("the runtime failed: ") + error.what());
    } catch (...) {
      return internal_error("the runtime failed");
    }
  } catch (...) {  // there is no memory for the text
    return out_of_memory();
  }
}

}  // namespace servolley::engine
