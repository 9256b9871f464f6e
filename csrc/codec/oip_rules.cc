#include "codec/oip_rules.h"

#include "codec/bytes_tensor.h"
#include "codec/classification.h"
#include "codec/messages.h"

namespace servolley::codec::oip {

std::string for_model(std::string_view model) { return message(" for model '", model, "'"); }

Result<std::uint32_t> find_input(const DecodeContext& context, std::string_view name) {
  if (const auto index = context.signature.input_index(name)) return *index;
  return invalid_argument(
      message("unexpected inference input ", quoted(name), for_model(context.model)));
}

Status input_given_twice(const DecodeContext& context, std::uint32_t index) {
  return invalid_argument(message("input ", quoted(context.signature.inputs[index].name),
                                  " is given twice", for_model(context.model)));
}

Status bad_shape(const DecodeContext& context, std::string_view input, std::string_view what) {
  return invalid_argument(
      message("invalid shape of ", input, for_model(context.model), ": ", what));
}

Result<std::size_t> check_input(const DecodeContext& context, std::uint32_t index, DType dtype,
                                const Shape& shape) {
  const TensorSpec& spec = context.signature.inputs[index];
  if (spec.dtype != dtype) {
    return invalid_argument(message("inference input ", quoted(spec.name), " data-type is '",
                                    oip_name(dtype), "', but model '", context.model, "' expects '",
                                    oip_name(spec.dtype), "'"));
  }
  if (Status fits = context.signature.check_input(index, shape, context.model); !fits.ok()) {
    return fits;
  }
  const auto elements = shape.element_count();
  if (!elements) return bad_shape(context, "input " + quoted(spec.name), kTooManyElements);
  if (!shape.byte_count(dtype)) {
    return bad_shape(context, "input " + quoted(spec.name),
                     "its size in bytes does not fit 64 bits");
  }
  return static_cast<std::size_t>(*elements);
}

namespace {

Status unexpected_size(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                       const std::string& what) {
  return invalid_argument(message("unexpected size for input ",
                                  quoted(context.signature.inputs[index].name),
                                  for_model(context.model), ": shape ", shape.to_string(), what));
}

}  // namespace

Status check_raw_size(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                      std::size_t elements, std::size_t bytes, std::string_view where) {
  const DType dtype = context.signature.inputs[index].dtype;
  if (dtype == DType::kBytes) return {};
  const std::size_t expected = elements * element_size(dtype);
  if (expected == bytes) return {};
  return unexpected_size(
      context, index, shape,
      message(" takes ", std::to_string(expected), " bytes, ", where, std::to_string(bytes)));
}

Status check_raw_data(const DecodeContext& context, std::uint32_t index, const Shape& shape,
                      std::size_t elements, std::span<const std::byte> data,
                      std::string_view where) {
  if (context.signature.inputs[index].dtype != DType::kBytes) {
    return check_raw_size(context, index, shape, elements, data.size(), where);
  }
  const Status valid = check_packed_bytes(data, elements);
  if (valid.ok()) return {};
  return unexpected_size(context, index, shape, message(", ", valid.message()));
}

Status check_complete(const DecodeContext& context, const InferRequest& request) {
  std::size_t given = 0;
  const TensorSpec* missing = nullptr;
  for (std::size_t i = 0; i < request.inputs.size(); ++i) {
    if (request.inputs[i].given()) {
      ++given;
    } else if (!missing) {
      missing = &context.signature.inputs[i];
    }
  }
  if (!missing) return {};
  return invalid_argument(message("expected ", std::to_string(request.inputs.size()),
                                  " inputs but got ", std::to_string(given), " inputs",
                                  for_model(context.model), ": missing ", quoted(missing->name)));
}

Status check_rows(const DecodeContext& context, const InferRequest& request) {
  if (!context.signature.batched || request.inputs.empty()) return {};
  const std::int64_t rows = request.inputs[0].view.shape[0];
  for (std::size_t i = 1; i < request.inputs.size(); ++i) {
    const std::int64_t other = request.inputs[i].view.shape[0];
    if (other != rows) {
      return invalid_argument(
          message("all inputs must have the same first dimension", for_model(context.model), ": ",
                  quoted(context.signature.inputs[0].name), " has ", std::to_string(rows), ", ",
                  quoted(context.signature.inputs[i].name), " has ", std::to_string(other)));
    }
  }
  return {};
}

Result<std::uint32_t> find_output(const DecodeContext& context, const InferRequest& request,
                                  std::string_view name) {
  const auto index = context.signature.output_index(name);
  if (!index) {
    return invalid_argument(
        message("unexpected inference output ", quoted(name), for_model(context.model)));
  }
  for (const RequestedOutput& other : request.outputs) {
    if (other.index == *index) {
      return invalid_argument(
          message("output ", quoted(name), " is asked for twice", for_model(context.model)));
    }
  }
  return *index;
}

Status check_classification(const TensorSpec& output) {
  if (can_classify(output.dtype)) return {};
  return invalid_argument(message("output ", quoted(output.name), " is ", oip_name(output.dtype),
                                  ": classification needs an integer, FP32 or FP64 tensor"));
}

Status bad_classification() {
  return invalid_argument("parameter 'classification' must be from 1 to 4294967295");
}

Status reserved_parameter(std::string_view key) {
  return invalid_argument(
      message("parameter ", quoted(key), ": names that begin with 'triton_' are reserved"));
}

Status no_sequences(const DecodeContext& context) {
  return {Code::kUnimplemented, "sequences are not supported yet" + for_model(context.model)};
}

Status no_shared_memory(const DecodeContext& context, std::string_view tensor) {
  return {Code::kUnimplemented,
          message("shared memory is not supported: ", tensor, for_model(context.model),
                  ". The server is started without --shared-memory")};
}

}  // namespace servolley::codec::oip
