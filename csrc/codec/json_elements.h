#pragma once

#include <array>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "codec/element_parse.h"
#include "codec/element_store.h"
#include "codec/half.h"
#include "codec/json_reader.h"
#include "codec/number_runs.h"

namespace servolley::codec {

// Reading the elements of one innermost array, by element type. Each has
//   bool begin_declared(elements)      room for exactly that many
//   bool begin_inferred(text_bytes)    room for what that much text may hold; grows
//   bool row(count)                    the cursor is behind '['; reads to behind ']'
//   bool rows(length, count)           reads the rest of an array of such arrays; adds to count
//   bool one()                         reads a single element
//   bool finish(shape, out)            hands the tensor over

// Says what is wrong with the element at the cursor. Always false.
bool fail_element(const TensorSource& source, std::string_view expected);
// Says that an array has another length than the first of its kind. Always false.
bool fail_length(const TensorSource& source, std::size_t found, std::size_t expected);

// The careful way for numbers of any form: strict grammar, correct rounding, exact ranges.
bool read_careful(const TensorSource& source, float& out);
bool read_careful(const TensorSource& source, double& out);
// An integer from -2^63 to 2^64-1 that must lie in [least, most].
bool read_careful_integer(const TensorSource& source, std::int64_t least, std::uint64_t most,
                          bool& negative, std::uint64_t& magnitude);

template <class T>
bool read_element_careful(const TensorSource& source, T& out) {
  if constexpr (std::is_floating_point_v<T>) {
    return read_careful(source, out);
  } else if constexpr (std::is_integral_v<T>) {
    bool negative = false;
    std::uint64_t magnitude = 0;
    if (!read_careful_integer(source, static_cast<std::int64_t>(std::numeric_limits<T>::min()),
                              static_cast<std::uint64_t>(std::numeric_limits<T>::max()), negative,
                              magnitude)) {
      return false;
    }
    out = static_cast<T>(negative ? 0 - magnitude : magnitude);
    return true;
  } else if constexpr (std::is_same_v<T, Bool>) {
    bool value = false;
    if (source.reader.peek() != JsonKind::kBool) return fail_element(source, "true or false");
    if (!source.reader.read_bool(value)) return false;
    out.value = value;
    return true;
  } else {
    double value = 0;
    if (!read_careful(source, value)) return false;
    out.bits = std::is_same_v<T, Fp16> ? fp16_from_double(value) : bf16_from_double(value);
    return true;
  }
}

// Elements of a fixed size.
template <class T>
class FixedElements {
 public:
  explicit FixedElements(const TensorSource& source) : store_(source) {}

  const TensorSource& source() const { return store_.source(); }
  bool begin_declared(std::size_t elements) {
    if (!store_.begin_declared(elements * sizeof(T))) return false;
    place(0);
    return true;
  }
  bool begin_inferred(std::size_t text_bytes) {
    if (!store_.begin_inferred((text_bytes / 8 + 8) * sizeof(T))) return false;
    place(0);
    return true;
  }
  bool finish(const Shape& shape, InputTensor& out) { return store_.finish(used(), shape, out); }
  std::size_t elements() const { return used() / sizeof(T); }

  bool one() {
    if (next_ == room_ && !grow()) return false;
    const char* const behind = parse(reader().at(), reader().end(), *next_);
    if (behind) {
      reader().move_to(behind);
    } else if (!read_element_careful(source(), *next_)) {
      return false;
    }
    ++next_;
    return true;
  }

  bool row(std::size_t& count) {
    T* next = next_;
    const char* const behind = read_row(reader().at(), next, count);
    if (!behind) return false;
    next_ = next;
    reader().move_to(behind);
    return true;
  }

  // Arrays of `length` elements each, and what is between them; the cursor is where the first may
  // begin. Reads to behind the ']' of the array that holds them. Everything that this loop needs
  // stays in registers, which matters for short arrays (the channels of a pixel).
  bool rows(std::size_t length, std::size_t& count) {
    const char* const end = reader().end();
    const char* at = reader().at();
    T* next = next_;
    std::ptrdiff_t until_run = 0;
    for (;;) {
      at = skip_space(at, end);
      if (length - 1 < kShortRow && at != end && --until_run < 0) {
        const T* const before = next;
        at = read_run_of_rows(reader().begin(), at, end, next, room_, length);
        count += static_cast<std::size_t>(next - before) / length;
        until_run = next - before < kGoodRun ? kNoRun / static_cast<std::ptrdiff_t>(length) : 0;
      }
      std::size_t found = 0;
      if (at == end || *at != '[') {
        sync(at, next);
        return fail_element(source(), "an array");
      }
      const char* const behind = read_row(at + 1, next, found);
      if (!behind) return false;
      if (found != length) {
        sync(behind, next);
        return fail_length(source(), found, length);
      }
      ++count;
      at = behind;
      if (at != end && *at == ',') [[likely]] {
        ++at;
        continue;
      }
      at = skip_space(at, end);
      if (at != end && *at == ',') {
        ++at;
        continue;
      }
      sync(at, next);
      if (at == end || *at != ']') return reader().fail_syntax("expected ',' or ']'");
      reader().move_to(at + 1);
      return true;
    }
  }

 private:
  // Rows of up to so many elements are read as runs of rows.
  static constexpr std::size_t kShortRow = 32;
  // Text whose elements runs do not take is not tried again and again: behind a run of fewer
  // elements than kGoodRun, kNoRun elements are read one by one.
  static constexpr std::ptrdiff_t kGoodRun = 8;
  static constexpr std::ptrdiff_t kNoRun = 64;

  JsonReader& reader() const { return source().reader; }
  static const char* skip_space(const char* at, const char* end) {
    while (at != end && static_cast<unsigned char>(*at) <= ' ') {
      if (*at != ' ' && *at != '\n' && *at != '\r' && *at != '\t') break;
      ++at;
    }
    return at;
  }

  void sync(const char* at, T* next) {
    next_ = next;
    reader().move_to(at);
  }

  // Reads elements from behind a '[' to behind its ']'. nullptr after an error.
  [[gnu::always_inline]] inline const char* read_row(const char* at, T*& next, std::size_t& count) {
    const char* const end = reader().end();
    const T* first = next;
    count = 0;
    at = skip_space(at, end);
    if (at != end && *at == ']') return at + 1;
    std::ptrdiff_t until_run = 0;
    for (;;) {
      if (--until_run < 0) {
        const T* const before = next;
        at = read_run(reader().begin(), at, end, next, room_);
        until_run = next - before < kGoodRun ? kNoRun : 0;
      }
      if (next == room_) [[unlikely]] {
        count += static_cast<std::size_t>(next - first);
        sync(at, next);
        if (!grow()) return nullptr;
        first = next = next_;
      }
      if (const char* const behind = parse(at, end, *next)) [[likely]] {
        at = behind;
      } else {
        sync(at, next);
        if (!read_element_careful(source(), *next)) return nullptr;
        at = reader().at();
      }
      ++next;
      if (at != end && *at == ',') [[likely]] {
        ++at;
      } else {
        at = skip_space(at, end);
        if (at != end && *at == ']') break;
        if (at == end || *at != ',') {
          sync(at, next);
          reader().fail_syntax(at == end ? "an array is not closed" : "expected ',' or ']'");
          return nullptr;
        }
        ++at;
      }
      at = skip_space(at, end);
    }
    count += static_cast<std::size_t>(next - first);
    return at + 1;
  }

  std::size_t used() const {
    return static_cast<std::size_t>(reinterpret_cast<std::byte*>(next_) - store_.begin());
  }
  void place(std::size_t used) {
    next_ = reinterpret_cast<T*>(store_.begin() + used);
    const auto room = static_cast<std::size_t>(store_.end_of_room() - store_.begin());
    room_ = reinterpret_cast<T*>(store_.begin()) + room / sizeof(T);
  }
  bool grow() {
    const std::size_t kept = used();
    if (!store_.grow(kept, sizeof(T))) return false;
    place(kept);
    return true;
  }
  [[gnu::always_inline]] static const char* parse(const char* at, const char* end, T& out) {
    if (end - at >= kNumberReadAhead) [[likely]]
      return parse_element(at, out);
    return parse_near_end(at, end, out);
  }
  // Reads a copy with zeros behind it, which end every number.
  [[gnu::noinline]] static const char* parse_near_end(const char* at, const char* end, T& out) {
    std::array<char, 2 * kNumberReadAhead> copy{};
    std::memcpy(copy.data(), at, static_cast<std::size_t>(end - at));
    const char* const behind = parse_element(copy.data(), out);
    return behind ? at + (behind - copy.data()) : nullptr;
  }

  ElementStore store_;
  T* next_ = nullptr;
  T* room_ = nullptr;
};

// BYTES: JSON strings, or base64 objects where the source allows them.
class BytesElements {
 public:
  explicit BytesElements(const TensorSource& source) : store_(source) {}

  const TensorSource& source() const { return store_.source(); }
  bool begin_declared(std::size_t elements);
  bool begin_inferred(std::size_t text_bytes);
  bool finish(const Shape& shape, InputTensor& out) { return store_.finish(used_, shape, out); }
  std::size_t elements() const { return elements_; }
  bool one();
  bool row(std::size_t& count);
  bool rows(std::size_t length, std::size_t& count);

 private:
  bool read_base64_object();
  bool put(std::string_view raw, bool escaped, bool base64);

  ElementStore store_;
  std::size_t used_ = 0;
  std::size_t elements_ = 0;
  std::size_t most_elements_ = static_cast<std::size_t>(-1);
};

}  // namespace servolley::codec
