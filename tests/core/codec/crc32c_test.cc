#include "codec/crc32c.h"

#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <string_view>

namespace servolley::codec {
namespace {

std::uint32_t crc_of(std::string_view text) {
  return crc32c({reinterpret_cast<const std::byte*>(text.data()), text.size()});
}

// The check values of RFC 3720, appendix B.4, and the one that catalogues of checksums list.
TEST_CASE("crc32c of known data") {
  CHECK(crc_of("") == 0);
  CHECK(crc_of("123456789") == 0xE3069283);
  std::array<char, 32> block{};
  CHECK(crc_of({block.data(), block.size()}) == 0x8A9136AA);
  block.fill('\xff');
  CHECK(crc_of({block.data(), block.size()}) == 0x62A8AB43);
  for (std::size_t i = 0; i < block.size(); ++i) block[i] = static_cast<char>(i);
  CHECK(crc_of({block.data(), block.size()}) == 0x46DD794E);
}

}  // namespace
}  // namespace servolley::codec
