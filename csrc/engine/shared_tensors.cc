#include "engine/shared_tensors.h"

#include <utility>

#include "codec/decode_budget.h"
#include "codec/inline_list.h"
#include "codec/messages.h"
#include "codec/oip_shared.h"
#include "device/host_device.h"
#include "engine/servable.h"

namespace servolley::engine {
namespace {

using codec::message;
using codec::quoted;
using RegionLease = std::shared_ptr<const shm::Region>;

Result<RegionLease> find_region(const shm::Regions& regions, const codec::SharedPart& part,
                                std::string_view what, const std::string& tensor) {
  auto region = regions.find(part.region);
  if (!region) return region;
  if (const Status inside = (*region)->check_range(part.offset, part.bytes); !inside.ok()) {
    return invalid_argument(
        message("invalid shared memory of ", what, quoted(tensor), ": ", inside.message()));
  }
  return region;
}

// Memory of a GPU is read where it lies by a model that runs there. BYTES are checked here.
bool reads_in_place(const Servable& servable, const shm::Region& region, DType dtype) {
  return region.device_data() && dtype != DType::kBytes &&
         servable.takes_memory_of(region.device());
}

// What a device copies by itself saves the copy that the host would make.
bool copied_by_device(const shm::Region& region, std::uint64_t bytes) {
  return region.pinned_data() && bytes >= HostDevice::kPinnedFromBytes;
}

Status read_input(const codec::SharedInput& shared, const shm::Region& region,
                  const codec::DecodeContext& context, codec::InputTensor& input) {
  auto copy = context.pool.allocate(input.view.bytes);
  if (!copy) return std::move(copy).error();
  SERVOLLEY_TRY(region.read(shared.part.offset, {copy->data(), input.view.bytes}));
  input.view.data = copy->data();
  input.owner = std::move(*copy);
  // What is checked is the copy: the client may go on writing.
  return codec::oip::check_shared_data(context, shared.index, input);
}

}  // namespace

Status read_shared_tensors(Request& request, const codec::DecodeContext& context,
                           const shm::Regions& regions) {
  codec::InferRequest& infer = request.infer;
  for (const codec::RequestedOutput& output : infer.outputs) {
    if (output.form != codec::OutputForm::kShared) continue;
    auto region = find_region(regions, infer.shared_outputs[output.shared], "output ",
                              context.signature.outputs[output.index].name);
    if (!region) return std::move(region).error();
    request.output_regions.push_back(std::move(*region));  // in the order of shared_outputs
  }
  codec::InlineList<const shm::Region*> inputs;  // in the table, which does not change meanwhile
  for (const codec::SharedInput& shared : infer.shared_inputs) {
    auto region =
        find_region(regions, shared.part, "input ", context.signature.inputs[shared.index].name);
    if (!region) return std::move(region).error();
    inputs.push_back(region->get());
  }
  codec::DecodeBudget budget(context.decoded_bytes_limit);
  for (const codec::InputTensor& input : infer.inputs) {
    if ((input.owner || input.shared) && !budget.take(input.view.bytes)) return budget.exceeded();
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const codec::SharedInput& shared = infer.shared_inputs[i];
    codec::InputTensor& input = infer.inputs[shared.index];
    if (reads_in_place(*request.servable, *inputs[i], input.view.dtype)) {
      input.view.data = inputs[i]->device_data() + shared.part.offset;
      input.device = inputs[i]->device();
      request.input_regions.push_back(*regions.find(shared.part.region));
      continue;
    }
    if (copied_by_device(*inputs[i], input.view.bytes) && input.view.dtype != DType::kBytes &&
        request.servable->takes_pinned_memory()) {
      SERVOLLEY_TRY(inputs[i]->check_there(shared.part.offset, shared.part.bytes));
      input.view.data = inputs[i]->pinned_data() + shared.part.offset;
      request.input_regions.push_back(*regions.find(shared.part.region));
      continue;
    }
    // The loop does not wait for a GPU. What is in BYTES has to be known before admission.
    if (inputs[i]->device_data() && input.view.dtype != DType::kBytes) {
      auto copy = context.pool.allocate(input.view.bytes);
      if (!copy) return std::move(copy).error();
      input.view.data = copy->data();
      input.owner = std::move(*copy);
      request.pending_reads.push_back({.input = shared.index,
                                       .offset = shared.part.offset,
                                       .region = *regions.find(shared.part.region)});
      continue;
    }
    SERVOLLEY_TRY(read_input(shared, *inputs[i], context, input));
  }
  return {};
}

Status read_pending(const Batch& batch) {
  for (std::size_t i = 0; i < batch.items.size(); ++i) {
    for (const Request::PendingRead& read : batch.request(i).pending_reads) {
      const codec::InputTensor& input = batch.request(i).infer.inputs[read.input];
      SERVOLLEY_TRY(read.region->read(read.offset, {input.owner.data(), input.view.bytes}));
    }
  }
  return {};
}

OutputPart device_target(const Request& request, std::size_t output, DeviceId device) {
  OutputPart target;
  for (const codec::RequestedOutput& wanted : request.infer.outputs) {
    if (wanted.index != output) continue;
    // Wanted twice, or in the answer: then it has to come to the host anyway.
    if (target.data || wanted.form != codec::OutputForm::kShared || wanted.classification) {
      return {};
    }
    const shm::Region& region = *request.output_regions[wanted.shared];
    const codec::SharedPart& part = request.infer.shared_outputs[wanted.shared];
    if (copied_by_device(region, part.bytes)) {
      // It would be an error anyway, which whoever writes there says.
      if (!region.check_there(part.offset, part.bytes).ok()) return {};
      target = {
          .data = region.pinned_data() + part.offset, .capacity = part.bytes, .on_host = true};
      continue;
    }
    if (!region.device_data() || region.device() != device) return {};
    target = {.data = region.device_data() + part.offset, .capacity = part.bytes};
  }
  return target;
}

namespace {

// Whether the output is now wherever the request wants it in shared memory, all of it on devices.
bool write_to_devices(const Request& request, std::size_t output, const TensorView& view) {
  bool any = false;
  for (const codec::RequestedOutput& wanted : request.infer.outputs) {
    if (wanted.index != output || wanted.form != codec::OutputForm::kShared) continue;
    const codec::SharedPart& part = request.infer.shared_outputs[wanted.shared];
    const shm::Region& region = *request.output_regions[wanted.shared];
    if (!region.device_data() || view.bytes > part.bytes) return false;
    if (!region.write(part.offset, view.span()).ok()) return false;
    any = true;
  }
  return any;
}

}  // namespace

void deliver_to_devices(Batch& batch) {
  for (std::size_t i = 0; i < batch.items.size(); ++i) {
    const Request& request = batch.request(i);
    if (request.output_regions.empty() || request.cancelled.load(std::memory_order_relaxed)) {
      continue;
    }
    for (std::size_t o = 0; o < batch.outputs.size(); ++o) {
      OutputTensor& output = batch.outputs[o];
      if (output.delivered_to(i) || !write_to_devices(request, o, rows_of(batch, o, i))) continue;
      output.delivered.resize(batch.items.size());
      output.delivered[i] = true;
    }
  }
}

Status write_shared_tensors(const Request& request, std::span<const codec::OutputView> outputs) {
  for (const codec::RequestedOutput& output : request.infer.outputs) {
    if (output.form != codec::OutputForm::kShared) continue;
    if (outputs[output.index].delivered) continue;
    const codec::SharedPart& part = request.infer.shared_outputs[output.shared];
    const TensorView& view = outputs[output.index].view;
    if (view.bytes > part.bytes) {
      const std::string& name = request.servable->signature().outputs[output.index].name;
      return invalid_argument(message("shared memory of ", std::to_string(part.bytes),
                                      " bytes for output ", quoted(name), " is too small: it has ",
                                      std::to_string(view.bytes), " bytes"));
    }
    SERVOLLEY_TRY(request.output_regions[output.shared]->write(part.offset, view.span()));
  }
  return {};
}

}  // namespace servolley::engine
