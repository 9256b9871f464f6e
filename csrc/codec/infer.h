#pragma once

// codec [layer 4]: bytes <-> tensors, one file per dialect. No sockets, no threads, no models: a
// signature and a pool go in, an InferRequest or a Payload comes out. Never meets net or batching.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "device/device.h"
#include "memory/buffer.h"
#include "memory/payload.h"
#include "memory/pool.h"
#include "tensor/shape.h"
#include "tensor/signature.h"
#include "tensor/tensor_view.h"

namespace servolley::codec {

// One input of a request, in the signature's order. The data lies in the request body (empty owner)
// or in memory that the codec took from the pool because it had to decode (owner set). BYTES are
// packed as TensorView says.
struct InputTensor {
  TensorView view;
  Buffer owner;
  // In a client's shared memory (see InferRequest::shared_inputs): `view` has no address until
  // somebody has brought the data.
  bool shared = false;
  DeviceId device{};  // whose memory `view` lies in: the host's, unless it is shared

  bool given() const { return shared || view.data; }
};

enum class OutputForm : std::uint8_t { kJson, kBinary, kShared };

struct RequestedOutput {
  std::uint32_t index = 0;  // in the signature
  OutputForm form = OutputForm::kJson;
  std::uint32_t classification = 0;  // k of "top k classes", 0 = the tensor itself
  std::uint32_t shared = 0;          // kShared: its place in InferRequest::shared_outputs
};

// A part of a client's shared memory, as the request names it. Whether there is such a region, and
// whether the part lies in it, the codec does not know.
struct SharedPart {
  std::string region;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
};
// Where an input's data lies.
struct SharedInput {
  std::uint32_t index = 0;  // in the signature
  SharedPart part;
};

// A decoded request. Reused: clear() keeps every capacity, so that a warm server decodes small
// binary requests without the allocator.
struct InferRequest {
  std::string id;
  std::vector<InputTensor> inputs;       // every input of the signature, in its order
  std::vector<RequestedOutput> outputs;  // in the order of the answer
  std::vector<SharedInput> shared_inputs;
  std::vector<SharedPart> shared_outputs;  // where outputs go instead of into the answer
  std::uint64_t priority = 0;              // 0 = the model's default, 1 = highest
  std::optional<std::uint64_t> timeout_us;
  bool columnar = false;  // TensorFlow Serving's "inputs" form instead of "instances"

  bool uses_shared_memory() const { return !shared_inputs.empty() || !shared_outputs.empty(); }
  void clear() {
    id.clear();
    inputs.clear();
    outputs.clear();
    shared_inputs.clear();
    shared_outputs.clear();
    priority = 0;
    timeout_us.reset();
    columnar = false;
  }
};

// What a decoder may know and use.
struct DecodeContext {
  const Signature& signature;
  std::string_view model;  // for messages
  Pool& pool;
  // Bytes that all decoded tensors of one request may take together: TOO_LARGE above.
  std::size_t decoded_bytes_limit;
  bool shared_memory = false;  // clients may name parts of theirs
};

// One output tensor of one request (its rows of the batch).
struct OutputView {
  TensorView view;
  // Keeps `view` alive; shared into the payload for zero-copy segments.
  const Buffer* owner = nullptr;
  // Its client has it already, in its shared memory: `view` may have no data.
  bool delivered = false;
};

struct EncodeContext {
  const Signature& signature;
  std::string_view model;
  std::string_view version;  // decimal
  Pool& pool;
};

}  // namespace servolley::codec
