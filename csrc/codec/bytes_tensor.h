#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace servolley::codec {

// Packed BYTES elements: u32 little-endian length, then the bytes, back to back.

// Takes the first element off `rest`. False if `rest` ends inside it.
inline bool take_bytes_element(std::span<const std::byte>& rest, std::string_view& element) {
  std::uint32_t length = 0;
  if (rest.size() < sizeof length) return false;
  std::memcpy(&length, rest.data(), sizeof length);
  if (length > rest.size() - sizeof length) return false;
  element = {reinterpret_cast<const char*>(rest.data()) + sizeof length, length};
  rest = rest.subspan(sizeof length + length);
  return true;
}

// Whether `data` holds exactly `elements` packed elements. The message has no subject.
inline Status check_packed_bytes(std::span<const std::byte> data, std::size_t elements) {
  // A length takes 4 bytes, so a false element count cannot make this loop long.
  std::string_view element;
  for (std::size_t i = 0; i < elements; ++i) {
    if (!take_bytes_element(data, element)) {
      return invalid_argument("the bytes end inside element " + std::to_string(i) + " of " +
                              std::to_string(elements));
    }
  }
  if (data.empty()) return {};
  return invalid_argument(std::to_string(data.size()) + " bytes behind element " +
                          std::to_string(elements));
}

}  // namespace servolley::codec
