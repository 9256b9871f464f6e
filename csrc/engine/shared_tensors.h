#pragma once

#include <span>

#include "codec/infer.h"
#include "engine/batch.h"
#include "engine/request.h"
#include "runtime/runner.h"
#include "shm/regions.h"

// Tensors in clients' shared memory: the codec outlines them, here they are read and written. Loop
// thread, where nothing else is said.
namespace servolley::engine {

// Before admission: finds the regions of a decoded request, which keeps those of its outputs, and
// copies its inputs out of theirs, or leaves that to whoever runs the request, or has them read
// where they lie. NOT_FOUND for an unknown region, INVALID_ARGUMENT for a part that does not lie in
// it or is not what the shape takes, TOO_LARGE if the decoded inputs and these take more than one
// request may. Nothing is allocated before the regions and the parts are known.
Status read_shared_tensors(Request& request, const codec::DecodeContext& context,
                           const shm::Regions& regions);

// Any thread that runs the request. Where it wants an output, if that is in memory of the device,
// or in memory that devices write to by themselves, and nowhere else.
OutputPart device_target(const Request& request, std::size_t output, DeviceId device);

// On a thread that runs requests, so that the loop does not wait for a GPU. Before the run: brings
// the inputs that were left in a GPU's memory. INTERNAL if that is broken.
Status read_pending(const Batch& batch);
// After the run: writes outputs into memory of GPUs that nobody has written to yet. What cannot be
// written is left for write_shared_tensors to say.
void deliver_to_devices(Batch& batch);

// Before the answer: writes outputs where their client wants them, unless they are there already.
// INVALID_ARGUMENT if one is larger than that.
Status write_shared_tensors(const Request& request, std::span<const codec::OutputView> outputs);

}  // namespace servolley::engine
