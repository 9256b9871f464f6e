#pragma once

#include <span>

#include "codec/infer.h"
#include "engine/request.h"
#include "shm/regions.h"

// Tensors in clients' shared memory: the codec outlines them, here they are read and written. Loop
// thread.
namespace servolley::engine {

// Before admission: finds the regions of a decoded request, which keeps those of its outputs, and
// copies its inputs out of theirs, or has them read where they lie. NOT_FOUND for an unknown
// region, INVALID_ARGUMENT for a part that does not lie in it or is not what the shape takes,
// TOO_LARGE if the decoded inputs and these take more than one request may. Nothing is allocated
// before the regions and the parts are known.
Status read_shared_tensors(Request& request, const codec::DecodeContext& context,
                           const shm::Regions& regions);

// Before the answer: writes outputs where their client wants them. INVALID_ARGUMENT if one is
// larger than that.
Status write_shared_tensors(const Request& request, std::span<const codec::OutputView> outputs);

}  // namespace servolley::engine
