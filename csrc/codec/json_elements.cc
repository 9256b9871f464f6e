#include "codec/json_elements.h"

#include <fast_float/fast_float.h>

#include <bit>
#include <cmath>

#include "codec/base64.h"
#include "codec/json_string.h"

namespace servolley::codec {
namespace {

// Passes the number at the cursor; `text` is what it consists of, without the sign.
bool scan(const TensorSource& source, std::string_view expected, std::string_view& text,
          bool& negative) {
  JsonReader& reader = source.reader;
  if (reader.peek() != JsonKind::kNumber) return fail_element(source, expected);
  const char* const start = reader.at();
  if (!reader.scan_number()) return false;
  negative = *start == '-';
  text = {start + negative, static_cast<std::size_t>(reader.at() - start - negative)};
  return true;
}

template <class Float>
Float convert(std::string_view text) {
  Float value = 0;
  fast_float::from_chars(text.data(), text.data() + text.size(), value);
  return value;
}

bool fail_range(const TensorSource& source, std::string_view text, bool negative) {
  return source.reader.fail(invalid_argument(
      message("input ", quoted(source.input), ": ", negative ? "-" : "", text.substr(0, 40),
              " is out of range for ", oip_name(source.dtype))));
}

template <class Float>
bool read_float(const TensorSource& source, Float& out) {
  std::string_view text;
  bool negative = false;
  if (!scan(source, "a number", text, negative)) return false;
  Float value = 0;
  if (text[0] == 'N') {
    value = std::numeric_limits<Float>::quiet_NaN();
  } else if (text[0] == 'I') {
    value = std::numeric_limits<Float>::infinity();
  } else {
    value = convert<Float>(text);
    if (std::isinf(value) &&
        (source.overflow == FloatOverflow::kRefuse || std::isinf(convert<double>(text)))) {
      return fail_range(source, text, negative);
    }
  }
  out = negative ? -value : value;
  return true;
}

}  // namespace

double nearest_double(std::uint64_t digits, std::size_t scale) {
  // The step of fast_float's conversion behind its reading of the text, which is done already. For
  // such powers of ten its product of 128 bits is always enough.
  using Format = fast_float::binary_format<double>;
  const auto found = fast_float::compute_float<Format>(-static_cast<std::int64_t>(scale), digits);
  return std::bit_cast<double>(found.mantissa | static_cast<std::uint64_t>(found.power2)
                                                    << Format::mantissa_explicit_bits());
}

bool fail_element(const TensorSource& source, std::string_view expected) {
  JsonReader& reader = source.reader;
  const JsonKind kind = reader.peek();
  if (reader.at() == reader.end()) return reader.fail_syntax("an array is not closed");
  if (kind == JsonKind::kInvalid) return reader.fail_syntax("expected a value");
  std::string text = message("input ", quoted(source.input), ": expected ", expected, " for ",
                             oip_name(source.dtype), ", found ", json_kind_name(kind));
  if (kind == JsonKind::kArray) text += " (nested deeper than the tensor's other elements)";
  return reader.fail(invalid_argument(std::move(text)));
}

bool fail_length(const TensorSource& source, std::size_t found, std::size_t expected) {
  return source.reader.fail(invalid_argument(
      message("input ", quoted(source.input), ": an array of ", std::to_string(found),
              " elements where ", std::to_string(expected), " are expected")));
}

bool read_careful(const TensorSource& source, float& out) { return read_float(source, out); }
bool read_careful(const TensorSource& source, double& out) { return read_float(source, out); }

bool read_careful_integer(const TensorSource& source, std::int64_t least, std::uint64_t most,
                          bool& negative, std::uint64_t& magnitude) {
  std::string_view text;
  if (!scan(source, "an integer", text, negative)) return false;
  magnitude = 0;
  for (const char c : text) {
    if (c < '0' || c > '9') {
      return source.reader.fail(invalid_argument(
          message("input ", quoted(source.input), ": expected an integer for ",
                  oip_name(source.dtype), ", found ", negative ? "-" : "", text.substr(0, 40))));
    }
  }
  for (const char c : text) {
    if (__builtin_mul_overflow(magnitude, std::uint64_t{10}, &magnitude) ||
        __builtin_add_overflow(magnitude, static_cast<std::uint64_t>(c - '0'), &magnitude)) {
      return fail_range(source, text, negative);
    }
  }
  const std::uint64_t limit = negative ? 0 - static_cast<std::uint64_t>(least) : most;
  return magnitude <= limit || fail_range(source, text, negative);
}

bool BytesElements::begin_declared(std::size_t elements) {
  most_elements_ = elements;
  // Every element takes a length; the bytes themselves are in the text, and may still grow.
  return store_.begin_inferred(
      std::min(elements * 2 * sizeof(std::uint32_t), source().reader.left() * 2 + 16));
}

bool BytesElements::begin_inferred(std::size_t text_bytes) {
  return store_.begin_inferred(text_bytes / 2 + 16);
}

bool BytesElements::put(std::string_view raw, bool escaped, bool base64) {
  const std::size_t most = sizeof(std::uint32_t) + (base64 ? raw.size() + 3 : raw.size());
  const auto room = static_cast<std::size_t>(store_.end_of_room() - store_.begin());
  if (room - used_ < most && !store_.grow(used_, most)) return false;
  char* const to = reinterpret_cast<char*>(store_.begin()) + used_ + sizeof(std::uint32_t);
  std::size_t size = raw.size();
  if (escaped) {
    size = unescape(raw, to);
  } else if (size && !base64) {
    std::memcpy(to, raw.data(), size);
  }
  if (base64) {
    const auto decoded = decode_base64(escaped ? std::string_view(to, size) : raw, to);
    if (!decoded) {
      return source().reader.fail(invalid_argument(
          message("input ", quoted(source().input), ": invalid base64 in a b64 object")));
    }
    size = *decoded;
  }
  if (size > std::numeric_limits<std::uint32_t>::max()) {
    return source().reader.fail(too_large("a BYTES element of 4 GiB or more"));
  }
  const auto length = static_cast<std::uint32_t>(size);
  std::memcpy(to - sizeof length, &length, sizeof length);
  used_ += sizeof length + size;
  ++elements_;
  return true;
}

bool BytesElements::read_base64_object() {
  JsonReader& reader = source().reader;
  const auto malformed = [&] {
    return !reader.failed() &&
           reader.fail(invalid_argument(message(
               "input ", quoted(source().input),
               ": an object in place of a string must have exactly one key 'b64' with a string")));
  };
  if (!reader.enter_object()) return false;
  bool first = true;
  std::string_view key;
  if (!reader.next_member(first, key) || key != "b64") return malformed();
  if (reader.peek() != JsonKind::kString) return malformed();
  std::string_view raw;
  bool escaped = false;
  if (!reader.scan_string(raw, escaped)) return false;
  if (reader.next_member(first, key) || reader.failed()) return malformed();
  return put(raw, escaped, true);
}

bool BytesElements::one() {
  JsonReader& reader = source().reader;
  if (elements_ == most_elements_) {
    return reader.fail(
        invalid_argument(message("unexpected number of elements for input ", quoted(source().input),
                                 ": its data has more than its shape holds")));
  }
  const JsonKind kind = reader.peek();
  if (kind == JsonKind::kObject && source().base64) return read_base64_object();
  if (kind != JsonKind::kString) return fail_element(source(), "a string");
  std::string_view raw;
  bool escaped = false;
  return reader.scan_string(raw, escaped) && put(raw, escaped, false);
}

bool BytesElements::row(std::size_t& count) {
  bool first = true;
  count = 0;
  while (source().reader.next_element(first)) {
    if (!one()) return false;
    ++count;
  }
  return !source().reader.failed();
}

bool BytesElements::rows(std::size_t length, std::size_t& count) {
  JsonReader& reader = source().reader;
  // What is left looks like a whole array whose '[' was just read.
  bool first = true;
  while (reader.next_element(first)) {
    if (*reader.at() != '[') return fail_element(source(), "an array");
    reader.move_to(reader.at() + 1);
    std::size_t found = 0;
    if (!row(found)) return false;
    if (found != length) return fail_length(source(), found, length);
    ++count;
  }
  return !reader.failed();
}

}  // namespace servolley::codec
