#include "runtime/ort/ort_strings.h"

#include <cstring>
#include <limits>

namespace servolley::ort {
namespace {

constexpr std::size_t kLengthBytes = sizeof(std::uint32_t);

std::uint32_t read_length(const std::byte* at) {
  std::uint32_t length = 0;
  std::memcpy(&length, at, kLengthBytes);
  return length;
}

// Walks the packed form; true if it holds exactly `elements` elements.
bool well_packed(const TensorView& view, std::size_t elements) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < elements; ++i) {
    if (view.bytes - at < kLengthBytes) return false;
    const std::size_t length = read_length(view.data + at);
    at += kLengthBytes;
    if (view.bytes - at < length) return false;
    at += length;
  }
  return at == view.bytes;
}

}  // namespace

Result<Handle<abi::Value>> make_strings(const Library& library, const TensorView& view) {
  const abi::Functions& api = library.api();
  const auto elements = view.shape.element_count();
  if (!elements || static_cast<std::uint64_t>(*elements) > view.bytes / kLengthBytes ||
      !well_packed(view, static_cast<std::size_t>(*elements))) {
    return invalid_argument("the bytes of a BYTES tensor do not hold the elements of its shape " +
                            view.shape.to_string());
  }
  abi::Value* raw = nullptr;
  SERVOLLEY_TRY(library.take(api.create_tensor(library.allocator(), view.shape.dims().data(),
                                               view.shape.rank(), abi::kString, &raw),
                             Phase::kRun));
  auto strings = own(raw, api.release_value);
  const std::byte* at = view.data;
  for (std::size_t i = 0; i < static_cast<std::size_t>(*elements); ++i) {
    const std::size_t length = read_length(at);
    at += kLengthBytes;
    char* text = nullptr;
    SERVOLLEY_TRY(library.take(api.resize_string_element(raw, i, length, &text), Phase::kRun));
    if (length) std::memcpy(text, at, length);
    at += length;
  }
  return strings;
}

Status pack_strings(const Library& library, const abi::Value* strings, std::size_t elements,
                    Pool& pool, std::size_t limit_bytes, OutputTensor& packed) {
  const abi::Functions& api = library.api();
  std::size_t text_bytes = 0;
  SERVOLLEY_TRY(library.take(api.string_bytes(strings, &text_bytes), Phase::kRun));
  if (text_bytes > limit_bytes || elements > (limit_bytes - text_bytes) / kLengthBytes) {
    return too_large("an output is larger than the limit of " + std::to_string(limit_bytes) +
                     " bytes");
  }
  const std::size_t header_bytes = elements * kLengthBytes;
  auto buffer = pool.allocate(header_bytes + text_bytes);
  if (!buffer) return std::move(buffer).error();
  auto offsets_buffer = pool.allocate(elements * sizeof(std::size_t));
  if (!offsets_buffer) return std::move(offsets_buffer).error();
  auto* offsets = reinterpret_cast<std::size_t*>(offsets_buffer->data());

  // All text goes to the end of the buffer; then each element moves forward behind its length. An
  // element never moves backward and never past the text that is still to move.
  std::byte* const text = buffer->data() + header_bytes;
  if (elements > 0) {
    SERVOLLEY_TRY(library.take(api.string_content(strings, text, text_bytes, offsets, elements),
                               Phase::kRun));
  }
  std::byte* to = buffer->data();
  for (std::size_t i = 0; i < elements; ++i) {
    // NOLINTNEXTLINE(clang-analyzer-core.NullDereference): an allocated buffer has memory
    const std::size_t length = (i + 1 < elements ? offsets[i + 1] : text_bytes) - offsets[i];
    if (length > std::numeric_limits<std::uint32_t>::max()) {
      return {Code::kResourceExhausted, "an output holds a string of 4 GiB or more"};
    }
    const auto prefix = static_cast<std::uint32_t>(length);
    // NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker): an allocated buffer has memory
    std::memcpy(to, &prefix, kLengthBytes);
    std::memmove(to + kLengthBytes, text + offsets[i], length);
    to += kLengthBytes + length;
  }
  packed.view.data = buffer->data();
  packed.view.bytes = header_bytes + text_bytes;
  packed.owner = std::move(*buffer);
  return {};
}

}  // namespace servolley::ort
