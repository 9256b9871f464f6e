#include "runtime/ort/ort_status.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <span>

namespace servolley::ort {
namespace {

constexpr std::size_t kLongestMessage = 1000;

bool contains_any(std::string_view text, std::span<const std::string_view> needles) {
  return std::any_of(needles.begin(), needles.end(), [&](std::string_view needle) {
    return text.find(needle) != std::string_view::npos;
  });
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_identifier(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || c == ':' ||
         c == '~';
}

// The position behind the bracket that closes the one at `open`; npos if there is none.
std::size_t behind_bracket(std::string_view text, std::size_t open, char left, char right) {
  std::size_t depth = 0;
  for (std::size_t i = open; i < text.size(); ++i) {
    if (text[i] == left) ++depth;
    if (text[i] == right && --depth == 0) return i + 1;
  }
  return std::string_view::npos;
}

// Where the word that contains or ends at `at` begins.
std::size_t word_begin(std::string_view text, std::size_t at) {
  constexpr std::string_view kBoundaries = " \t\n\"'(=,";
  while (at > 0 && kBoundaries.find(text[at - 1]) == std::string_view::npos) --at;
  return at;
}

// The position behind the function that follows a source location: `name `, or with a full path
// (`long_form`) the whole signature "int ns::f(a, b) const [with T = x] ".
std::size_t behind_function(std::string_view text, std::size_t at, bool long_form) {
  if (!long_form) {
    std::size_t end = at;
    while (end < text.size() && is_identifier(text[end])) ++end;
    return end;
  }
  const std::size_t line_end = std::min(text.find('\n', at), text.size());
  std::size_t open = text.find('(', at);
  if (open >= line_end) return at;
  std::size_t end = behind_bracket(text, open, '(', ')');
  while (end < text.size() && text[end] == '(') end = behind_bracket(text, end, '(', ')');
  if (end == std::string_view::npos) return at;
  for (const std::string_view suffix : {" const", " noexcept"}) {
    if (text.substr(end).starts_with(suffix)) end += suffix.size();
  }
  if (text.substr(end).starts_with(" [with ")) {
    const std::size_t behind = behind_bracket(text, end + 1, '[', ']');
    if (behind != std::string_view::npos) end = behind;
  }
  return end;
}

// Removes "some/file.cc:123 function(signature) ".
void strip_source_locations(std::string& text) {
  constexpr std::array<std::string_view, 7> kEndings = {
      ".cc:", ".h:", ".cpp:", ".hpp:", ".cuh:", ".cu:", ".inl:"};
  for (const std::string_view ending : kEndings) {
    std::size_t at = 0;
    while ((at = text.find(ending, at)) != std::string::npos) {
      std::size_t end = at + ending.size();
      if (end >= text.size() || !is_digit(text[end])) {
        at = end;
        continue;
      }
      const std::size_t begin = word_begin(text, at);
      while (end < text.size() && is_digit(text[end])) ++end;
      const bool long_form =
          std::string_view(text).substr(begin, at - begin).find('/') != std::string_view::npos;
      if (end < text.size() && text[end] == ' ') end = behind_function(text, end + 1, long_form);
      while (end < text.size() && text[end] == ' ') ++end;
      text.erase(begin, end - begin);
      at = begin;
    }
  }
}

// Removes "[ONNXRuntimeError] : 1 : FAIL : ".
void strip_code_prefixes(std::string& text) {
  constexpr std::string_view kMark = "[ONNXRuntimeError] : ";
  std::size_t at = 0;
  while ((at = text.find(kMark, at)) != std::string::npos) {
    std::size_t end = at + kMark.size();
    for (int part = 0; part < 2; ++part) {
      const std::size_t colon = text.find(" : ", end);
      if (colon == std::string::npos) break;
      end = colon + 3;
    }
    text.erase(at, end - at);
  }
}

// Leaves of every file path only its last component. Words in single quotes are names of nodes.
void strip_folders(std::string& text) {
  std::string kept;
  kept.reserve(text.size());
  bool quoted = false;
  std::size_t i = 0;
  while (i < text.size()) {
    const bool starts_word =
        i == 0 || std::string_view(" \t\n\"=").find(text[i - 1]) != std::string_view::npos;
    // An apostrophe inside a word ("doesn't") opens nothing.
    if (text[i] == '\'')
      quoted = !quoted && (i == 0 || !is_identifier(text[i - 1]) || text[i - 1] == ':');
    if (!quoted && starts_word) {
      std::size_t end = i;
      while (end < text.size() &&
             std::string_view(" \t\"'),;").find(text[end]) == std::string_view::npos) {
        ++end;
      }
      const std::string_view word(text.data() + i, end - i);
      const std::size_t slash = word.rfind('/');
      // "n/a" and "float32/float64" are words; a path starts with / or . or has two of them.
      if (slash != std::string_view::npos &&
          (word[0] == '/' || word[0] == '.' || word.find('/') != slash)) {
        kept += word.substr(slash + 1);
        i = end;
        continue;
      }
    }
    kept += text[i++];
  }
  text = std::move(kept);
}

}  // namespace

std::string clean_message(std::string_view raw) {
  std::string text(raw.substr(0, raw.find("\nStacktrace:")));
  strip_source_locations(text);
  strip_code_prefixes(text);
  strip_folders(text);
  std::string line;
  for (const char c : text) {
    const bool space = c == '\n' || c == '\r' || c == '\t' || c == ' ';
    if (space) {
      if (!line.empty() && line.back() != ' ') line += ' ';
    } else {
      line += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
    }
  }
  while (!line.empty() && line.back() == ' ') line.pop_back();
  if (line.size() > kLongestMessage) {
    std::size_t end = kLongestMessage;  // not in the middle of a UTF-8 sequence
    while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xc0) == 0x80) --end;
    line.resize(end);
    line += "...";
  }
  return line;
}

Code map_code(int ort_code, std::string_view text, Phase phase) {
  constexpr std::array<std::string_view, 5> kMemory = {"Failed to allocate memory", "bad_alloc",
                                                       "out of memory", "CUDA_ERROR_OUT_OF_MEMORY",
                                                       "Available memory of"};
  if (contains_any(text, kMemory)) return Code::kResourceExhausted;
  if (phase == Phase::kLoad) {
    switch (ort_code) {
      case abi::kNoSuchFile:
        return Code::kNotFound;
      case abi::kEngineError:
      case abi::kModelLoaded:
      case abi::kProviderFail:
        return Code::kInternal;
      default:
        return Code::kInvalidArgument;
    }
  }
  if (ort_code == abi::kInvalidArgument) return Code::kInvalidArgument;
  // Kernels report many disagreements of the inputs' shapes as general failures.
  constexpr std::array<std::string_view, 10> kShape = {
      "Attempting to broadcast an axis",
      "cannot be reshaped to the requested shape",
      "Shape mismatch",
      "shape mismatch",
      "Incompatible dimensions",
      "incompatible dimensions",
      "dimension mismatch",
      "Dimension mismatch",
      "invalid expand shape",
      "Tensor shape.Size() must be >= 0",
  };
  if ((ort_code == abi::kFail || ort_code == abi::kRuntimeException) &&
      contains_any(text, kShape)) {
    return Code::kInvalidArgument;
  }
  return Code::kInternal;
}

bool may_be_bound_shape_mismatch(const Status& status) {
  constexpr std::array<std::string_view, 2> kWordings = {
      "shape verification failed", "but the computed output shape for this run is"};
  return status.code() == Code::kInternal || contains_any(status.message(), kWordings);
}

std::optional<std::size_t> refused_by_arena(std::string_view text) {
  constexpr std::string_view kRefusal = "is smaller than requested bytes of ";
  const std::size_t at = text.find(kRefusal);
  if (at == std::string_view::npos) return std::nullopt;
  const char* const number = text.data() + at + kRefusal.size();
  std::size_t bytes = 0;
  if (std::from_chars(number, text.data() + text.size(), bytes).ec != std::errc()) {
    return std::nullopt;
  }
  return bytes;
}

Status take_status(const abi::Functions& api, abi::Error* error, Phase phase,
                   std::size_t arena_limit_bytes) {
  if (!error) return {};
  const std::string_view text = api.error_message(error);
  Status status(map_code(api.error_code(error), text, phase), clean_message(text));
  if (arena_limit_bytes > 0 && refused_by_arena(text).value_or(0) > arena_limit_bytes) {
    status = too_large("a tensor of the run is larger than the limit of " +
                       std::to_string(arena_limit_bytes) + " bytes");
  }
  api.release_error(error);
  return status;
}

}  // namespace servolley::ort
