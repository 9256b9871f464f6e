#include "runtime/ort/ort_value.h"

#include <array>

#include "runtime/ort/ort_dtype.h"
#include "runtime/ort/ort_strings.h"

namespace servolley::ort {
namespace {

// An output that lies in the runtime's memory, as the block of a Buffer.
struct ForeignBlock {
  Block block;
  // Outlives the value, which may lie in the session's own memory (an output that is a weight).
  std::shared_ptr<const LoadedModel> model;
  Handle<abi::Value> value;

  static Buffer lease(std::shared_ptr<const LoadedModel> of, Handle<abi::Value> made,
                      std::byte* data, std::size_t bytes) {
    auto* foreign = new ForeignBlock{{}, std::move(of), std::move(made)};
    foreign->block.data = data;
    foreign->block.capacity = bytes;
    foreign->block.leases.store(1, std::memory_order_relaxed);
    foreign->block.owner = foreign;
    foreign->block.release = [](Block* block) noexcept {
      delete static_cast<ForeignBlock*>(block->owner);
    };
    return Buffer::adopt(&foreign->block);
  }
};

}  // namespace

std::byte* nowhere() {
  alignas(64) static std::array<std::byte, 64> bytes{};
  return bytes.data();
}

Status BoundTensor::wrap(const Library& library, const abi::MemoryInfo* memory,
                         std::byte* memory_data, const TensorView& view) {
  const abi::Functions& api = library.api();
  value.reset();
  abi::Value* raw = nullptr;
  SERVOLLEY_TRY(
      library.take(api.wrap_tensor(memory, memory_data, view.bytes, view.shape.dims().data(),
                                   view.shape.rank(), to_ort(view.dtype), &raw),
                   Phase::kRun));
  value = own(raw, api.release_value);
  data = memory_data;
  bytes = view.bytes;
  dtype = view.dtype;
  shape = view.shape;
  return {};
}

Status read_shape(const Library& library, const std::string& output, const abi::Value* value,
                  TensorView& view) {
  const abi::Functions& api = library.api();
  const auto take = [&](abi::Error* error) { return library.take(error, Phase::kRun); };
  abi::TensorInfo* raw = nullptr;
  SERVOLLEY_TRY(take(api.tensor_info(value, &raw)));
  const auto info = own(raw, api.release_tensor_info);
  std::size_t rank = 0;
  SERVOLLEY_TRY(take(api.rank(raw, &rank)));
  if (rank > kMaxRank) {
    return internal_error("output '" + output + "' has more than " + std::to_string(kMaxRank) +
                          " dimensions");
  }
  std::array<std::int64_t, kMaxRank> dims{};
  SERVOLLEY_TRY(take(api.dims(raw, dims.data(), rank)));
  view.shape = {};
  for (std::size_t i = 0; i < rank; ++i) view.shape.push_back(dims[i]);
  const auto bytes = view.shape.byte_count(view.dtype);
  if (!view.shape.element_count() || !bytes) {
    return internal_error("output '" + output + "' has a bad shape");
  }
  view.bytes = *bytes;
  return {};
}

Result<std::vector<Handle<abi::Value>>> bound_values(const Library& library,
                                                     const abi::Binding* binding,
                                                     std::size_t count) {
  const abi::Functions& api = library.api();
  const auto take = [&](abi::Error* error) { return library.take(error, Phase::kRun); };
  abi::Value** raw = nullptr;
  std::size_t bound = 0;
  SERVOLLEY_TRY(take(api.bound_outputs(binding, library.allocator(), &raw, &bound)));
  std::vector<Handle<abi::Value>> values;
  values.reserve(bound);
  for (std::size_t i = 0; i < bound; ++i) values.push_back(own(raw[i], api.release_value));
  SERVOLLEY_TRY(take(api.allocator_free(library.allocator(), raw)));
  if (bound != count) return internal_error("the runtime lost an output");
  return values;
}

Status adopt(std::shared_ptr<const LoadedModel> model, const std::string& output,
             Handle<abi::Value> value, OutputTensor& tensor) {
  const Library& library = *model->library();
  const OrtOptions& options = model->options();
  TensorView& view = tensor.view;
  SERVOLLEY_TRY(read_shape(library, output, value.get(), view));
  if (view.dtype == DType::kBytes) {
    const auto elements = static_cast<std::size_t>(view.shape.element_count().value_or(0));
    return pack_strings(library, value.get(), elements, *options.pool, options.max_output_bytes,
                        tensor);
  }
  if (view.bytes > options.max_output_bytes) {
    return too_much_output(output, options.max_output_bytes);
  }
  void* data = nullptr;
  SERVOLLEY_TRY(library.take(library.api().tensor_data(value.get(), &data), Phase::kRun));
  view.data = static_cast<const std::byte*>(data);
  tensor.owner = ForeignBlock::lease(std::move(model), std::move(value),
                                     static_cast<std::byte*>(data), view.bytes);
  return {};
}

Status too_much_output(const std::string& name, std::size_t limit_bytes) {
  return too_large("output '" + name + "' is larger than the limit of " +
                   std::to_string(limit_bytes) + " bytes");
}

}  // namespace servolley::ort
