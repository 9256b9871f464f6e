#include "runtime/ort/ort_signature.h"

#include "runtime/ort/ort_dtype.h"

namespace servolley::ort {
namespace {

// The functions of one side; the two sides differ in nothing else.
struct Side {
  std::string_view word;
  decltype(abi::Functions::input_count) count;
  decltype(abi::Functions::input_name) name;
  decltype(abi::Functions::input_type_info) type_info;
};

Result<TensorSpec> read_spec(const Library& library, const abi::Session* session, const Side& side,
                             std::size_t index) {
  const abi::Functions& api = library.api();
  const auto take = [&](abi::Error* error) { return library.take(error, Phase::kLoad); };

  TensorSpec spec;
  char* name = nullptr;
  SERVOLLEY_TRY(take(side.name(session, index, library.allocator(), &name)));
  spec.name = name;
  SERVOLLEY_TRY(take(api.allocator_free(library.allocator(), name)));
  const std::string subject = "the model's " + std::string(side.word) + " '" + spec.name + "' ";

  abi::TypeInfo* raw_type = nullptr;
  SERVOLLEY_TRY(take(side.type_info(session, index, &raw_type)));
  const auto type = own(raw_type, api.release_type_info);
  int kind = abi::kUnknownKind;
  SERVOLLEY_TRY(take(api.value_kind(type.get(), &kind)));
  if (kind != abi::kTensorKind) {
    return invalid_argument(subject +
                            "is not a tensor (a sequence, map or optional). For a classifier "
                            "converted with skl2onnx or onnxmltools, convert it with "
                            "options={'zipmap': False}");
  }
  const abi::TensorInfo* info = nullptr;  // part of `type`
  SERVOLLEY_TRY(take(api.as_tensor_info(type.get(), &info)));

  int element_type = abi::kUndefined;
  SERVOLLEY_TRY(take(api.element_type(info, &element_type)));
  const auto dtype = from_ort(element_type);
  if (!dtype) {
    return invalid_argument(subject + "has the unsupported type " +
                            element_type_name(element_type));
  }
  spec.dtype = *dtype;

  std::size_t rank = 0;
  SERVOLLEY_TRY(take(api.rank(info, &rank)));
  if (rank > kMaxRank) {
    return invalid_argument(subject + "has " + std::to_string(rank) + " dimensions, more than " +
                            std::to_string(kMaxRank));
  }
  // Rank 0 is what ONNX Runtime reports both for a scalar and for a tensor without a declared
  // shape. Libraries that cannot tell them apart leave it to the run.
  spec.rank_known = rank > 0 || (api.has_shape && api.has_shape(info));
  std::array<std::int64_t, kMaxRank> dims{};
  std::array<const char*, kMaxRank> dim_names{};
  SERVOLLEY_TRY(take(api.dims(info, dims.data(), rank)));
  SERVOLLEY_TRY(take(api.dim_names(info, dim_names.data(), rank)));
  for (std::size_t i = 0; i < rank; ++i) {
    spec.shape.push_back(dims[i] < 0 ? -1 : dims[i]);
    spec.dim_names.emplace_back(dim_names[i] ? dim_names[i] : "");
  }
  return spec;
}

Status read_side(const Library& library, const abi::Session* session, const Side& side,
                 std::vector<TensorSpec>& specs) {
  std::size_t count = 0;
  SERVOLLEY_TRY(library.take(side.count(session, &count), Phase::kLoad));
  for (std::size_t i = 0; i < count; ++i) {
    auto spec = read_spec(library, session, side, i);
    if (!spec) return std::move(spec).error();
    specs.push_back(std::move(*spec));
  }
  return {};
}

}  // namespace

Result<Signature> read_signature(const Library& library, const abi::Session* session) {
  const abi::Functions& api = library.api();
  Signature signature;
  SERVOLLEY_TRY(read_side(library, session,
                          {"input", api.input_count, api.input_name, api.input_type_info},
                          signature.inputs));
  SERVOLLEY_TRY(read_side(library, session,
                          {"output", api.output_count, api.output_name, api.output_type_info},
                          signature.outputs));
  return signature;
}

}  // namespace servolley::ort
