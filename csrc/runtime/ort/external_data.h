#pragma once

#include <span>
#include <string>
#include <string_view>

#include "base/status.h"
#include "runtime/ort/file_bytes.h"

namespace servolley::ort {

// True if a model may keep weights at `location` (as the model writes it): a relative path that
// does not leave the model's folder.
bool stays_inside(std::string_view location);

// Reads the outline of a serialized ONNX model and refuses it if a tensor anywhere in it (weights,
// attributes, subgraphs, functions) names a file outside the model's folder. INVALID_ARGUMENT also
// if the bytes are no model. ONNX Runtime has its own check only in later versions. The result:
// whether a tensor names a file at all.
Result<bool> check_external_data(std::span<const char> model);

struct CheckedModel {
  FileBytes content;
  bool has_external_data = false;
};

// Reads a model's file and checks it in the same way.
Result<CheckedModel> read_model_file(const std::string& path);

}  // namespace servolley::ort
