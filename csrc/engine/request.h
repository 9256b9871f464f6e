#pragma once

// engine [layer 5]: threads and lifetimes. Joins net, codec, batching and a runner; meets runtimes
// only through runtime/runner.h.

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "batching/queue.h"
#include "codec/compression.h"
#include "codec/infer.h"
#include "engine/stats.h"
#include "memory/buffer.h"
#include "shm/region.h"

namespace servolley::engine {

class Connection;
class Servable;
class Shadow;

// One hot call from its decoding to its answer. Made and answered on the loop thread; in between an
// instance thread reads its inputs. Exactly one of these is true at any time: it is linked in a
// servable's queue, it belongs to a batch, or it is being decoded or answered.
struct Request : batching::Item {
  Connection* connection = nullptr;  // null once the client has gone
  std::uint64_t exchange = 0;        // the session's name of the call
  std::uint32_t sequence = 0;        // of a stream's requests, for answers in order
  Dialect dialect = Dialect::kOipHttp;
  codec::Coding response_coding = codec::Coding::kIdentity;
  std::shared_ptr<Servable> servable;
  std::shared_ptr<Shadow> shadow;  // gets a copy once the answer is there; mostly none
  codec::InferRequest infer;
  Buffer body;  // what the inputs with an empty owner lie in
  // Of inputs that are read where they lie, and of infer.shared_outputs: kept until the answer.
  std::vector<std::shared_ptr<const shm::Region>> input_regions;
  std::vector<std::shared_ptr<const shm::Region>> output_regions;
  // Inputs that are copied out of a GPU's memory when the request runs: that waits for the GPU.
  struct PendingRead {
    std::uint32_t input = 0;
    std::uint64_t offset = 0;
    std::shared_ptr<const shm::Region> region;
  };
  std::vector<PendingRead> pending_reads;
  std::vector<std::int64_t> key_storage;
  TimePoint received{};
  // Set by the loop thread, read by instances: the answer will not be sent.
  std::atomic<bool> cancelled{false};
  std::int64_t first_row = 0;  // in its batch
  bool traced = false;         // see Tracer

  // The connection's open requests, so that a lost connection finds them.
  Request* open_previous = nullptr;
  Request* open_next = nullptr;
};

// Fills shape_key, shape_hash, rows and `alone` from the decoded inputs. Without a batch dimension,
// or if the inputs disagree on it, the request runs alone.
void prepare_for_batching(Request& request, bool batched);

// Recycles requests with the capacity of everything inside. Loop thread only.
class RequestPool {
 public:
  Request* acquire();
  void release(Request* request);

 private:
  std::vector<std::unique_ptr<Request>> all_;
  std::vector<Request*> free_;
};

}  // namespace servolley::engine
