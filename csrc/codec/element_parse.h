#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "codec/half.h"
#include "codec/number_parse.h"

namespace servolley::codec {

// The quick way from JSON text to an element of any type but BYTES, in the manner of
// number_parse.h: the end of the element, or nullptr when the careful way must decide.

struct Fp16 {
  std::uint16_t bits;
};
struct Bf16 {
  std::uint16_t bits;
};
struct Bool {
  std::uint8_t value;
};

template <class T>
const char* parse_element(const char* at, T& out) {
  if constexpr (std::is_floating_point_v<T>) {
    return parse_quick(at, out);
  } else if constexpr (std::is_integral_v<T>) {
    return parse_quick_integer(at, out);
  } else if constexpr (std::is_same_v<T, Bool>) {
    out.value = *at == 't';
    if (std::memcmp(at, "true", 4) == 0) return at + 4;
    return std::memcmp(at, "false", 5) == 0 ? at + 5 : nullptr;
  } else {
    double value = 0;
    at = parse_quick(at, value);
    out.bits = std::is_same_v<T, Fp16> ? fp16_from_double(value) : bf16_from_double(value);
    return at;
  }
}

}  // namespace servolley::codec
