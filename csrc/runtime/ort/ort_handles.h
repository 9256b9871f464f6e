#pragma once

#include <memory>

#include "runtime/ort/ort_abi.h"

namespace servolley::ort {

// Releases a handle through the table's function for its type.
template <class T>
struct HandleRelease {
  void (*release)(T*) = nullptr;
  void operator()(T* handle) const { release(handle); }
};

template <class T>
using Handle = std::unique_ptr<T, HandleRelease<T>>;

// Owns `raw`, which the caller got from a successful call.
template <class T>
Handle<T> own(T* raw, void (*release)(T*)) {
  return Handle<T>(raw, HandleRelease<T>{release});
}

}  // namespace servolley::ort
