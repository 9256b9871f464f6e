#include "runtime/ort/external_data.h"

#include <cstdint>
#include <exception>
#include <filesystem>
#include <optional>
#include <protozero/pbf_reader.hpp>
#include <utility>

namespace servolley::ort {
namespace {

using protozero::pbf_reader;

// Deeper than any parser of ONNX files goes (protobuf's own limit is 100 messages).
constexpr int kDeepest = 100;
// Protobuf's limit on one message.
constexpr std::uintmax_t kLargestModel = std::uintmax_t{1} << 31;

// A message of onnx.proto: which fields lead to tensors. Numbers are those of the published schema.
enum class Message { kModel, kTraining, kGraph, kFunction, kNode, kAttribute, kSparse, kTensor };

std::optional<Message> child_of(Message message, protozero::pbf_tag_type field) {
  switch (message) {
    case Message::kModel:
      if (field == 7) return Message::kGraph;
      if (field == 20) return Message::kTraining;
      if (field == 25) return Message::kFunction;
      break;
    case Message::kTraining:
      if (field == 1 || field == 2) return Message::kGraph;
      break;
    case Message::kGraph:
      if (field == 1) return Message::kNode;
      if (field == 5) return Message::kTensor;
      if (field == 15) return Message::kSparse;
      break;
    case Message::kFunction:
      if (field == 7) return Message::kNode;
      if (field == 11) return Message::kAttribute;
      break;
    case Message::kNode:
      if (field == 5) return Message::kAttribute;
      break;
    case Message::kAttribute:
      if (field == 5 || field == 10) return Message::kTensor;
      if (field == 6 || field == 11) return Message::kGraph;
      if (field == 22 || field == 23) return Message::kSparse;
      break;
    case Message::kSparse:
      if (field == 1 || field == 2) return Message::kTensor;
      break;
    case Message::kTensor:
      break;
  }
  return std::nullopt;
}

Status check_entry(pbf_reader entry) {
  std::string_view key;
  std::string_view value;
  while (entry.next()) {
    const auto field = entry.tag();  // without NDEBUG, reading the value forgets it
    if (entry.wire_type() != protozero::pbf_wire_type::length_delimited ||
        (field != 1 && field != 2)) {
      entry.skip();
      continue;
    }
    const auto text = entry.get_view();
    (field == 1 ? key : value) = {text.data(), text.size()};
  }
  if (key != "location" || stays_inside(value)) return {};
  return invalid_argument(
      "the model names external data outside its own folder; that is not allowed");
}

Status check_message(pbf_reader reader, Message message, int depth, bool& external) {
  if (depth > kDeepest) return invalid_argument("the model is nested too deeply");
  constexpr protozero::pbf_tag_type kExternalData = 13;
  while (reader.next()) {
    const bool holds_bytes = reader.wire_type() == protozero::pbf_wire_type::length_delimited;
    const auto child = holds_bytes ? child_of(message, reader.tag()) : std::nullopt;
    if (holds_bytes && message == Message::kTensor && reader.tag() == kExternalData) {
      external = true;
      SERVOLLEY_TRY(check_entry(reader.get_message()));
    } else if (child) {
      SERVOLLEY_TRY(check_message(reader.get_message(), *child, depth + 1, external));
    } else {
      reader.skip();
    }
  }
  return {};
}

}  // namespace

bool stays_inside(std::string_view location) {
  if (location.empty() || location.front() == '/' ||
      location.find('\0') != std::string_view::npos ||
      location.find('\\') != std::string_view::npos) {
    return false;
  }
  // ONNX Runtime's own mark for "the offset is an address in this process".
  if (location.find("_ORT_MEM_ADDR_") != std::string_view::npos) return false;
  while (!location.empty()) {
    const std::size_t slash = location.find('/');
    if (location.substr(0, slash) == "..") return false;
    if (slash == std::string_view::npos) break;
    location.remove_prefix(slash + 1);
  }
  return true;
}

Result<bool> check_external_data(std::span<const char> model) {
  try {
    bool external = false;
    SERVOLLEY_TRY(
        check_message(pbf_reader(model.data(), model.size()), Message::kModel, 0, external));
    return external;
  } catch (const std::exception&) {  // the reader's way to say that the bytes end or make no sense
    return invalid_argument("the file is not a readable ONNX model");
  }
}

Result<CheckedModel> read_model_file(const std::string& path) {
  std::error_code error;
  const std::uintmax_t size = std::filesystem::file_size(path, error);
  if (error) return invalid_argument("the model file cannot be read");
  if (size == 0) return invalid_argument("the model file is empty");
  if (size > kLargestModel) {
    return invalid_argument("the model file is larger than 2 GiB, which no ONNX file can be");
  }
  auto content = FileBytes::read(path, static_cast<std::size_t>(size));
  if (!content) return std::move(content).error();
  const auto external = check_external_data(content->bytes());
  if (!external) return external.error();
  return CheckedModel{std::move(*content), *external};
}

}  // namespace servolley::ort
