// What goes up to the device and comes down from it.

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>

#include "device/host_device.h"
#include "runtime/ort/ort_lane_executor.h"
#include "runtime/ort/ort_strings.h"

namespace servolley::ort {
namespace {

// A DMA of its own costs more than copying that much into the block that goes up at once.
constexpr std::size_t kDirectBytes = std::size_t{16} << 10;
constexpr std::size_t kAlignment = 256;
// Less is not pinned.
constexpr std::size_t kSmallestBlock = HostDevice::kPinnedFromBytes;

std::size_t aligned(std::size_t bytes) { return (bytes + kAlignment - 1) & ~(kAlignment - 1); }

bool goes_directly(const InputPart& part) {
  return part.on_device || (part.pinned && part.view.bytes >= kDirectBytes);
}

// The memory of a request that lies on the device by itself, where kernels take it as it is.
std::byte* in_place(std::span<const InputPart> parts) {
  if (parts.size() != 1 || !parts[0].on_device) return nullptr;
  const std::byte* const data = parts[0].view.data;
  // The interface takes no const; inputs are only read.
  return reinterpret_cast<std::uintptr_t>(data) % kAlignment == 0 ? const_cast<std::byte*>(data)
                                                                  : nullptr;
}

bool overlap(const std::byte* a, std::size_t a_bytes, const std::byte* b, std::size_t b_bytes) {
  const auto from_a = reinterpret_cast<std::uintptr_t>(a);
  const auto from_b = reinterpret_cast<std::uintptr_t>(b);
  return from_a < from_b + b_bytes && from_b < from_a + a_bytes;
}

// The bytes of one request's rows in an output of the batch.
std::size_t bytes_of_request(const LaunchedBatch& batch, const TensorView& output, std::size_t j) {
  if (batch.requests == 1) return output.bytes;
  const auto rows = static_cast<std::size_t>(batch.input(0)[j].view.shape[0]);
  return output.bytes / static_cast<std::size_t>(batch.rows) * rows;
}

void gather(std::span<const InputPart> parts, std::byte* to) {
  for (const InputPart& part : parts) {
    if (part.view.bytes) std::memcpy(to, part.view.data, part.view.bytes);
    to += part.view.bytes;
  }
}

Status grow(Buffer& buffer, Pool& pool, std::size_t bytes) {
  if (buffer && buffer.capacity() >= bytes) return {};
  buffer.reset();  // first: the pool may need the room
  auto larger = pool.allocate(bytes);
  if (!larger) return std::move(larger).error();
  buffer = std::move(*larger);
  return {};
}

}  // namespace

Status OrtLaneExecutor::reserve_block(KeptBuffer& block, std::size_t bytes) {
  if (bytes == 0) return {};
  // To powers of two: pinning takes long, and sizes that grow a little would do it every time.
  return block.reserve(*model_->options().pool, std::bit_ceil(std::max(bytes, kSmallestBlock)));
}

Status OrtLaneExecutor::upload(Lane& lane, const LaunchedBatch& batch) {
  Binding& binding = *lane.used;
  const auto staged_bytes = [&](std::size_t i) {
    const auto parts = batch.input(i);
    const bool none = inputs_[i].on_host || std::all_of(parts.begin(), parts.end(), goes_directly);
    return none ? 0 : aligned(batch.outline(i).bytes);
  };
  std::size_t staged = 0;
  for (std::size_t i = 0; i < inputs_.size(); ++i) staged += staged_bytes(i);
  SERVOLLEY_TRY(reserve_block(lane.up, staged));
  staged = 0;
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    const auto parts = batch.input(i);
    if (inputs_[i].on_host) {
      SERVOLLEY_TRY(bind_host_input(lane, i, parts));
      continue;
    }
    // A graph is replayed with the addresses that it was captured with, and rows that are filled up
    // with need a place.
    places_[i] = binding.graph || binding.rows > batch.rows ? nullptr : in_place(parts);
    if (places_[i]) continue;
    KeptBuffer& memory = binding.input_memory[i];
    const bool fresh = !memory.holds(views_[i].bytes);
    SERVOLLEY_TRY(memory.reserve(*gpu().memory, views_[i].bytes));
    places_[i] = memory.data();
    if (fresh) {
      // Rows that a batch is filled up with are computed like the others, so they have to be values
      // that a model may meet: zeros, or what an earlier request had there. What lies in the memory
      // now may have been anything; that this batch is not filled up says nothing of the next.
      lane.queued.up = true;
      SERVOLLEY_TRY(up_.fill(memory.data(), std::byte{0}, memory.capacity()));
    }
    SERVOLLEY_TRY(upload_input(lane, i, parts, staged));
    staged += staged_bytes(i);
  }
  SERVOLLEY_TRY(up_.record(lane.uploaded));
  SERVOLLEY_TRY(compute().wait(lane.uploaded));
  // A library that does not tell where it wants its inputs copies those that it wants elsewhere
  // while they are bound: then they have to be there, every time.
  const bool known = model_->gpu()->places_known;
  if (!known) SERVOLLEY_TRY(lane.uploaded.wait());
  for (std::size_t i = 0; i < inputs_.size(); ++i) {
    if (!inputs_[i].on_host) SERVOLLEY_TRY(bind_device_input(binding, i, !known));
  }
  return {};
}

Status OrtLaneExecutor::bind_device_input(Binding& binding, std::size_t i, bool anew) {
  std::byte* const data = places_[i];
  BoundTensor& bound = binding.inputs[i];
  if (!bound.is(data, views_[i])) {
    SERVOLLEY_TRY(bound.wrap(*model_->library(), model_->gpu()->memory.get(), data, views_[i]));
  } else if (!anew) {
    return {};
  }
  Status status =
      take(api().bind_input(binding.handle.get(), inputs_[i].name.c_str(), bound.value.get()));
  if (!status.ok()) bound.value.reset();
  return status;
}

Status OrtLaneExecutor::upload_input(Lane& lane, std::size_t i, std::span<const InputPart> parts,
                                     std::size_t staged) {
  lane.queued.up = true;
  std::byte* const device = lane.used->input_memory[i].data();
  std::byte* const block = lane.up.data() + staged;
  std::size_t at = 0;
  std::size_t sent = 0;  // what lies between is in the block
  const auto send_block = [&]() -> Status {
    if (sent == at) return {};
    SERVOLLEY_TRY(up_.copy_to_device(device + sent, block + sent, at - sent));
    sent = at;
    return {};
  };
  for (const InputPart& part : parts) {
    const std::size_t bytes = part.view.bytes;
    if (goes_directly(part)) {
      SERVOLLEY_TRY(send_block());
      SERVOLLEY_TRY(part.on_device ? up_.copy_on_device(device + at, part.view.data, bytes)
                                   : up_.copy_to_device(device + at, part.view.data, bytes));
      sent += bytes;
    } else if (bytes) {
      std::memcpy(block + at, part.view.data, bytes);
    }
    at += bytes;
  }
  return send_block();
}

Status OrtLaneExecutor::bind_host_input(Lane& lane, std::size_t i,
                                        std::span<const InputPart> parts) {
  Binding& binding = *lane.used;
  TensorView view = views_[i];
  // One request's tensor is read where it lies if its address suits the type.
  const auto address = reinterpret_cast<std::uintptr_t>(view.data);
  const bool suits = inputs_[i].strings || address % element_size(view.dtype) == 0;
  if (parts.size() > 1 || !suits) {
    SERVOLLEY_TRY(binding.input_memory[i].reserve(*model_->options().pool, view.bytes));
    gather(parts, binding.input_memory[i].data());
    view.data = binding.input_memory[i].data();
  }
  if (view.bytes == 0) view.data = nowhere();
  abi::Value* value = nullptr;
  Handle<abi::Value> strings;
  if (inputs_[i].strings) {
    auto made = make_strings(*model_->library(), view);
    if (!made) {
      return {made.error().code(), "input '" + inputs_[i].name + "': " + made.error().message()};
    }
    strings = std::move(*made);
    value = strings.get();
  } else {
    // The interface takes no const; inputs are only read.
    SERVOLLEY_TRY(binding.inputs[i].wrap(*model_->library(), model_->library()->cpu_memory(),
                                         const_cast<std::byte*>(view.data), view));
    value = binding.inputs[i].value.get();
  }
  return take(api().bind_input(binding.handle.get(), inputs_[i].name.c_str(), value));
}

Status OrtLaneExecutor::bind_outputs(Lane& lane, const LaunchedBatch& batch) {
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    Descent& descent = lane.descents[i];
    descent = {};
    descent.tensor.view.dtype = outputs_[i].dtype;
    if (const auto input = outputs_[i].copy_of_input) {
      // The runtime ignores what is bound and hands the input's own memory back.
      TensorView& view = descent.tensor.view;
      view = batch.outline(*input);
      if (view.bytes > model_->options().max_output_bytes) {
        return too_much_output(outputs_[i].name, model_->options().max_output_bytes);
      }
      SERVOLLEY_TRY(grow(descent.tensor.owner, *model_->options().pool, view.bytes));
      view.data = descent.tensor.owner.data();
      gather(batch.input(*input), descent.tensor.owner.data());
      continue;
    }
    SERVOLLEY_TRY(bind_output(*lane.used, i, descent, batch));
  }
  return {};
}

Status OrtLaneExecutor::bind_output(Binding& binding, std::size_t i, Descent& descent,
                                    const LaunchedBatch& batch) {
  const Output& output = outputs_[i];
  const std::int64_t rows = batch.rows;
  const std::int64_t bound_rows = binding.rows > 0 ? binding.rows : rows;
  std::optional<Shape> shape;
  if (plans_hold_ && !output.on_host && output.plan.possible()) {
    shape = output.plan.infer(views_, bound_rows);
  }
  const auto bytes = shape ? shape->byte_count(output.dtype) : std::optional<std::size_t>();
  const bool has_rows =
      bytes && (binding.rows == 0 || (shape->rank() > 0 && (*shape)[0] == binding.rows));
  if ((binding.graph || binding.rows > 0) && !has_rows) {
    // Without a place of its own it would be read where it was when the graph was captured, and
    // nobody would know which rows are the batch's.
    Status status = internal_error(
        "output '" + output.name + "' " +
        (bytes ? "has no row for each of the batch" : "has no shape before it is there"));
    if (binding.graph) refuse_graphs(status.message());
    return status;
  }
  if (!bytes) return binding.runtime_allocates[i] ? Status() : leave_to_runtime(binding, i);
  if (*bytes > model_->options().max_output_bytes) {
    return too_much_output(output.name, model_->options().max_output_bytes);
  }
  std::byte* data = written_in_place(binding, i, batch, *bytes);
  descent.in_place = data != nullptr;
  if (!data) {
    SERVOLLEY_TRY(binding.output_memory[i].reserve(*gpu().memory, *bytes));
    data = binding.output_memory[i].data();
  }
  TensorView view{output.dtype, *shape, data, *bytes};
  if (binding.runtime_allocates[i] || !binding.outputs[i].is(data, view)) {
    SERVOLLEY_TRY(
        binding.outputs[i].wrap(*model_->library(), model_->gpu()->memory.get(), data, view));
    SERVOLLEY_TRY(take(api().bind_output(binding.handle.get(), output.name.c_str(),
                                         binding.outputs[i].value.get())));
    binding.runtime_allocates[i] = false;
  }
  if (binding.rows > 0) {
    view.shape[0] = rows;
    view.bytes =
        view.bytes / static_cast<std::size_t>(binding.rows) * static_cast<std::size_t>(rows);
  }
  descent.tensor.view = view;
  descent.from = data;
  return {};
}

std::byte* OrtLaneExecutor::written_in_place(const Binding& binding, std::size_t i,
                                             const LaunchedBatch& batch, std::size_t bytes) const {
  if (batch.requests != 1 || batch.targets.empty() || binding.graph) return nullptr;
  if (binding.rows > batch.rows) return nullptr;
  const OutputPart& target = batch.targets[i];
  const bool suits =
      !target.on_host && reinterpret_cast<std::uintptr_t>(target.data) % kAlignment == 0;
  if (!target.data || !suits || bytes == 0 || bytes > target.capacity) return nullptr;
  // What the run has yet to read must not be written over.
  for (std::size_t in = 0; in < inputs_.size(); ++in) {
    const InputPart& part = batch.parts[in];
    if (part.on_device && overlap(target.data, bytes, part.view.data, part.view.bytes)) {
      return nullptr;
    }
  }
  for (std::size_t other = 0; other < outputs_.size(); ++other) {
    const OutputPart& theirs = batch.targets[other];
    if (other != i && theirs.data && overlap(target.data, bytes, theirs.data, theirs.capacity)) {
      return nullptr;
    }
  }
  return target.data;
}

Status OrtLaneExecutor::collect(Lane& lane) {
  const Binding& binding = *lane.used;
  bool any = false;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    any |= binding.runtime_allocates[i] && !outputs_[i].copy_of_input;
  }
  if (!any) return {};
  auto values = bound_values(*model_->library(), binding.handle.get(), outputs_.size());
  if (!values) return std::move(values).error();
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    if (!binding.runtime_allocates[i] || outputs_[i].copy_of_input) continue;
    Descent& descent = lane.descents[i];
    descent.value = std::move((*values)[i]);
    if (outputs_[i].on_host) continue;  // read when the run is over
    TensorView& view = descent.tensor.view;
    SERVOLLEY_TRY(read_shape(*model_->library(), outputs_[i].name, descent.value.get(), view));
    if (view.bytes > model_->options().max_output_bytes) {
      return too_much_output(outputs_[i].name, model_->options().max_output_bytes);
    }
    void* data = nullptr;
    SERVOLLEY_TRY(take(api().tensor_data(descent.value.get(), &data)));
    descent.from = static_cast<const std::byte*>(data);
  }
  return {};
}

void OrtLaneExecutor::choose_deliveries(const LaunchedBatch& batch, std::size_t i,
                                        OutputTensor& tensor) {
  if (batch.targets.empty()) return;
  const Shape& shape = tensor.view.shape;
  // Rows that cannot be told apart are an error of the batch, which somebody else will tell.
  if (batch.requests > 1 && (shape.rank() == 0 || shape[0] != batch.rows)) return;
  bool any = false;
  std::vector<bool> delivered(batch.requests);
  for (std::size_t j = 0; j < batch.requests; ++j) {
    const OutputPart& target = batch.output(i)[j];
    delivered[j] = target.data && bytes_of_request(batch, tensor.view, j) <= target.capacity;
    any = any || delivered[j];
  }
  if (any) tensor.delivered = std::move(delivered);
}

Status OrtLaneExecutor::download(Lane& lane, const LaunchedBatch& batch) {
  std::size_t staged = 0;
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    Descent& descent = lane.descents[i];
    if (!descent.from) continue;
    OutputTensor& tensor = descent.tensor;
    tensor.view.data = nullptr;
    choose_deliveries(batch, i, tensor);
    const auto& delivered = tensor.delivered;
    if (!delivered.empty() && std::all_of(delivered.begin(), delivered.end(), std::identity())) {
      continue;
    }
    SERVOLLEY_TRY(grow(tensor.owner, *model_->options().pool, tensor.view.bytes));
    tensor.view.data = tensor.owner.data();
    if (tensor.owner.pinned() || tensor.view.bytes == 0) continue;
    descent.staged = staged;
    staged += aligned(tensor.view.bytes);
  }
  SERVOLLEY_TRY(reserve_block(lane.down, staged));
  lane.queued.down = true;
  SERVOLLEY_TRY(compute().record(lane.computed));
  SERVOLLEY_TRY(down_.wait(lane.computed));
  for (std::size_t i = 0; i < outputs_.size(); ++i) SERVOLLEY_TRY(bring_down(lane, batch, i));
  return down_.record(lane.downloaded);
}

Status OrtLaneExecutor::bring_down(Lane& lane, const LaunchedBatch& batch, std::size_t i) {
  const Descent& descent = lane.descents[i];
  const OutputTensor& tensor = descent.tensor;
  if (!descent.from || descent.in_place || tensor.view.bytes == 0) return {};
  std::byte* const to = descent.staged ? lane.down.data() + *descent.staged : tensor.owner.data();
  std::size_t at = 0;
  std::size_t brought = 0;  // what lies between goes to the host
  const auto bring = [&](std::size_t end) -> Status {
    if (brought == end) return {};
    return down_.copy_to_host(to + brought, descent.from + brought, end - brought);
  };
  for (std::size_t j = 0; j < tensor.delivered.size(); ++j) {
    const std::size_t bytes = bytes_of_request(batch, tensor.view, j);
    if (tensor.delivered[j]) {
      SERVOLLEY_TRY(bring(at));
      const OutputPart& target = batch.output(i)[j];
      SERVOLLEY_TRY(target.on_host ? down_.copy_to_host(target.data, descent.from + at, bytes)
                                   : down_.copy_on_device(target.data, descent.from + at, bytes));
      brought = at + bytes;
    }
    at += bytes;
  }
  return bring(tensor.view.bytes);
}

}  // namespace servolley::ort
