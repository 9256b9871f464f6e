#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"

namespace servolley::ort {

// True if a model may keep weights at `location` (as the model writes it): a relative path that
// does not leave the model's folder.
bool stays_inside(std::string_view location);

// Reads the outline of a serialized ONNX model and refuses it if a tensor anywhere in it (weights,
// attributes, subgraphs, functions) names a file outside the model's folder. INVALID_ARGUMENT also
// if the bytes are no model. ONNX Runtime has its own check only in later versions.
Status check_external_data(std::span<const char> model);
// The same for a file.
Status check_model_file(const std::string& path);

}  // namespace servolley::ort
