#pragma once

#include <memory>
#include <string>
#include <vector>

#include "memory/buffer.h"
#include "runtime/ort/ort_session.h"
#include "runtime/runner.h"
#include "tensor/tensor_view.h"

namespace servolley::ort {

// Where tensors without elements point: the runtime takes no null.
std::byte* nowhere();

// A tensor that is bound by address; bound again only if address or shape differ.
struct BoundTensor {
  Handle<abi::Value> value;
  const std::byte* data = nullptr;
  std::size_t bytes = 0;
  DType dtype = DType::kFp32;
  Shape shape;

  bool is(const std::byte* other, const TensorView& view) const {
    return value && data == other && bytes == view.bytes && dtype == view.dtype &&
           shape == view.shape;
  }
  // Becomes `data` in `memory`, with the type and the shape of `view`.
  Status wrap(const Library& library, const abi::MemoryInfo* memory, std::byte* memory_data,
              const TensorView& view);
};

// The shape and the size of what the runtime has made for an output whose type `view` has.
Status read_shape(const Library& library, const std::string& output, const abi::Value* value,
                  TensorView& view);

// Everything that the runtime has bound to the outputs, in the order of the first binding.
Result<std::vector<Handle<abi::Value>>> bound_values(const Library& library,
                                                     const abi::Binding* binding,
                                                     std::size_t count);

// Hands over what the runtime made in host memory: strings packed in the pool, anything else where
// it lies. `tensor.view` has the output's type.
Status adopt(std::shared_ptr<const LoadedModel> model, const std::string& output,
             Handle<abi::Value> value, OutputTensor& tensor);

Status too_much_output(const std::string& name, std::size_t limit_bytes);

}  // namespace servolley::ort
