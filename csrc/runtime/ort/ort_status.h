#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/ort/ort_abi.h"

namespace servolley::ort {

enum class Phase { kLoad, kRun };

// ONNX Runtime's text without what a client must not see and cannot use: source locations, function
// signatures, stack traces, folders of this machine. One line, no control characters. Names of
// nodes, which stand in single quotes and may look like paths, stay.
std::string clean_message(std::string_view text);

// What ONNX Runtime's code and text mean to us. While loading, the model is to blame for nearly
// everything; while running, the inputs are where the code or the text says so.
Code map_code(int ort_code, std::string_view text, Phase phase);

// True for a failed run that may be due to a bound output of another shape than the model produced:
// it says so in the words of one of the library's versions, or nobody else is to blame.
bool may_be_bound_shape_mismatch(const Status& status);

// How much the arena was asked for at once, if `text` is its refusal.
std::optional<std::size_t> refused_by_arena(std::string_view text);

// Takes `error` over (null = OK). What an arena of `arena_limit_bytes` (0: none, or no limit) could
// not give if it were empty is TOO_LARGE: no waiting helps.
Status take_status(const abi::Functions& api, abi::Error* error, Phase phase,
                   std::size_t arena_limit_bytes);

}  // namespace servolley::ort
