#include "codec/proto_values.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>

namespace servolley::codec::proto {
namespace {

constexpr std::size_t kLengthBytes = sizeof(std::uint32_t);

// A varint ends with the byte that has no continuation bit.
std::size_t count_varints(std::span<const std::byte> packed) {
  std::size_t count = 0;
  for (const std::byte b : packed) count += (b & std::byte{0x80}) == std::byte{0} ? 1 : 0;
  return count;
}

std::size_t value_bytes(Wire wire) { return wire == Wire::fixed32 ? 4 : 8; }

}  // namespace

bool FieldTallies::add(Reader& reader) {
  for (std::size_t i = 0; i < fields_.size(); ++i) {
    if (fields_[i].number != reader.tag()) continue;
    const Wire wire = fields_[i].wire;
    const Wire found = reader.wire_type();
    ValueTally& tally = tallies_[i];
    if (found == Wire::length_delimited) {
      // The library checks that fixed-size values fill the field.
      if (wire == Wire::fixed32) static_cast<void>(Reader(reader).get_packed_fixed32());
      if (wire == Wire::fixed64) static_cast<void>(Reader(reader).get_packed_fixed64());
      const auto bytes = take_span(reader);
      if (wire == Wire::length_delimited) {
        tally.last_bytes = kLengthBytes + bytes.size();
        tally.bytes += tally.last_bytes;
        ++tally.values;
      } else {
        tally.values +=
            wire == Wire::varint ? count_varints(bytes) : bytes.size() / value_bytes(wire);
        tally.packed = bytes;
      }
    } else if (found == wire) {
      reader.skip();
      ++tally.values;
      tally.packed = {};
    } else {
      return false;
    }
    ++tally.occurrences;
    return true;
  }
  return false;
}

const ValueTally& FieldTallies::of(std::uint32_t number) const {
  std::size_t i = 0;
  while (fields_[i].number != number) ++i;
  return tallies_[i];
}

const ValueField* FieldTallies::besides(std::uint32_t number) const {
  for (std::size_t i = 0; i < fields_.size(); ++i) {
    if (fields_[i].number != number && tallies_[i].values > 0) return &fields_[i];
  }
  return nullptr;
}

Status ValueWriter::begin(const ValueTally& tally, DecodeBudget& budget, Pool& pool) {
  tally_ = tally;
  const bool packs = target_.dtype == DType::kBytes;
  const std::size_t repeated = target_.elements - tally.values;
  // What one element that no value was sent for takes.
  const std::size_t each = !packs             ? element_size(target_.dtype)
                           : tally.values > 0 ? tally.last_bytes
                                              : kLengthBytes;
  const std::size_t sent = packs ? tally.bytes : tally.values * each;
  if (sent > budget.left() || repeated > (budget.left() - sent) / each) return budget.exceeded();
  bytes_ = sent + repeated * each;
  if (!budget.take(bytes_)) return budget.exceeded();
  auto memory = pool.allocate(bytes_);
  if (!memory) return std::move(memory).error();
  buffer_ = std::move(*memory);
  at_ = buffer_.data();
  return {};
}

template <class T>
bool ValueWriter::put(std::uint64_t varint) {
  T value;
  if constexpr (std::is_same_v<T, bool>) {
    value = varint != 0;
  } else if constexpr (sizeof(T) == 8) {
    value = static_cast<T>(varint);
  } else if constexpr (std::is_signed_v<T>) {
    const auto wide = static_cast<std::int32_t>(varint);
    if (wide < std::numeric_limits<T>::min() || wide > std::numeric_limits<T>::max()) return false;
    value = static_cast<T>(wide);
  } else {  // a negative number of a signed field is too large here
    const auto wide = static_cast<std::uint32_t>(varint);
    if (wide > std::numeric_limits<T>::max()) return false;
    value = static_cast<T>(wide);
  }
  std::memcpy(at_, &value, sizeof value);
  at_ += sizeof value;
  return true;
}

template <class T>
Status ValueWriter::add_varints(Reader& reader) {
  bool fits = true;
  if (reader.wire_type() == Wire::varint) {
    fits = put<T>(reader.get_uint64());
  } else {
    const std::string_view packed = take_bytes(reader);
    const char* at = packed.data();
    const char* const end = at + packed.size();
    while (at != end && fits) fits = put<T>(protozero::decode_varint(&at, end));
  }
  if (fits) return {};
  const auto element = static_cast<std::size_t>(at_ - buffer_.data()) / sizeof(T);
  return invalid_argument(message("element ", std::to_string(element), " of input ",
                                  quoted(target_.input), " does not fit ",
                                  oip_name(target_.dtype)));
}

void ValueWriter::add_raw(std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  std::memcpy(at_, bytes.data(), bytes.size());
  at_ += bytes.size();
}

Status ValueWriter::add(Reader& reader) {
  switch (target_.dtype) {
    case DType::kBool:
      return add_varints<bool>(reader);
    case DType::kUint8:
      return add_varints<std::uint8_t>(reader);
    case DType::kUint16:
    case DType::kFp16:  // their bits
    case DType::kBf16:
      return add_varints<std::uint16_t>(reader);
    case DType::kUint32:
      return add_varints<std::uint32_t>(reader);
    case DType::kUint64:
      return add_varints<std::uint64_t>(reader);
    case DType::kInt8:
      return add_varints<std::int8_t>(reader);
    case DType::kInt16:
      return add_varints<std::int16_t>(reader);
    case DType::kInt32:
      return add_varints<std::int32_t>(reader);
    case DType::kInt64:
      return add_varints<std::int64_t>(reader);
    case DType::kFp32:
    case DType::kFp64:
      if (reader.wire_type() == Wire::length_delimited) {
        add_raw(take_span(reader));
      } else if (target_.dtype == DType::kFp32) {
        const std::uint32_t bits = reader.get_fixed32();
        add_raw(std::as_bytes(std::span(&bits, 1)));
      } else {
        const std::uint64_t bits = reader.get_fixed64();
        add_raw(std::as_bytes(std::span(&bits, 1)));
      }
      return {};
    case DType::kBytes: {
      const auto value = take_span(reader);
      const auto length = static_cast<std::uint32_t>(value.size());
      add_raw(std::as_bytes(std::span(&length, 1)));
      add_raw(value);
      return {};
    }
  }
  return {};
}

void ValueWriter::finish(const Shape& shape, InputTensor& out) {
  auto left = bytes_ - static_cast<std::size_t>(at_ - buffer_.data());
  if (left > 0 && tally_.values == 0) {
    std::memset(at_, 0, left);
  } else if (left > 0) {
    // Every copy doubles the run of equal elements that the next one takes from.
    const std::size_t unit =
        target_.dtype == DType::kBytes ? tally_.last_bytes : element_size(target_.dtype);
    const std::byte* const run = at_ - unit;
    while (left > 0) {
      const std::size_t bytes = std::min(left, static_cast<std::size_t>(at_ - run));
      std::memcpy(at_, run, bytes);
      at_ += bytes;
      left -= bytes;
    }
  }
  out.view = {target_.dtype, shape, buffer_.data(), bytes_};
  out.owner = std::move(buffer_);
}

}  // namespace servolley::codec::proto
