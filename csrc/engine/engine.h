#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "engine/batch.h"
#include "engine/busy_poll.h"
#include "engine/completion_queue.h"
#include "engine/connection.h"
#include "engine/gpus.h"
#include "engine/lease.h"
#include "engine/looks.h"
#include "engine/request.h"
#include "engine/routes.h"
#include "engine/servable.h"
#include "engine/shadow.h"
#include "engine/tracer.h"
#include "memory/pool.h"
#include "net/http1.h"
#include "net/http2.h"
#include "shm/regions.h"

namespace servolley::engine {

struct EngineOptions {
  std::size_t pool_bytes = std::size_t{4} << 30;
  std::uint64_t body_bytes = std::uint64_t{64} << 20;
  std::size_t decoded_bytes = std::size_t{256} << 20;
  std::uint32_t queue_size = 4096;
  std::uint64_t request_timeout_us = 30'000'000;  // TensorFlow Serving's REST timeout; 0 = none
  std::uint64_t inline_threshold_us = 50;
  std::uint64_t busy_poll_us = 50;  // see BusyPoll; 0 = nobody looks for anything
  // The same on the way to devices and back, where there are processors enough.
  LaneLooks lane_looks{.work = std::chrono::microseconds(300),
                       .device = std::chrono::milliseconds(2),
                       .loop = std::chrono::milliseconds(1)};
  int processors = 0;      // that this process may use; 0 = what the system says
  int load_niceness = 19;  // how far loads stand back behind serving; see QuietWork
  net::Http1Limits http;
  net::Http2Limits http2;
  // zlib's level for messages to gRPC clients that accept compressed ones; 0 = never compressed.
  int grpc_compression_level = 0;
  shm::Quota shared_memory;     // what clients may register; nothing: they may not
  bool tensor_content = false;  // gRPC Predict answers with tensor_content instead of typed fields
  std::string cuda_library = "libcuda.so.1";  // NVIDIA's driver, opened when a GPU is asked for
  std::size_t gpu_pool_bytes = 0;             // ceiling on each GPU; 0 = what it has
};

struct FrontStats {
  std::uint64_t connections = 0;
  std::uint64_t connections_total = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;
  std::array<std::uint64_t, 600> responses{};  // by HTTP status
  std::uint64_t unknown_model_requests = 0;
};

// The Open Inference Protocol has neither 504 nor 429: who waited too long and who finds no memory
// is told that the server is overloaded (503), where TensorFlow Serving has a status for each.
Status in_dialect(const Status& status, Dialect dialect);

// Pool, routes, servables and connections behind one event loop. Everything belongs to the loop
// thread except create_servable() and Servable::close().
class Engine final : public BatchSink {
 public:
  explicit Engine(const EngineOptions& options);
  ~Engine() override;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Any thread.
  Result<std::shared_ptr<Servable>> create_servable(std::string name, std::int64_t version,
                                                    std::shared_ptr<Runner> runner,
                                                    ServableOptions options);

  // Any thread; may take a second. Memory of another process on a GPU, for regions(). Besides what
  // Gpu::open_ipc() says: FAILED_PRECONDITION if there is no such device, or no driver.
  Result<std::shared_ptr<const cuda::IpcMemory>> open_cuda_memory(std::int64_t device,
                                                                  std::span<const std::byte> handle,
                                                                  std::uint64_t bytes);

  // Any thread; may take a second. Lets devices copy from and to a client's region by themselves,
  // if a GPU is in use. False if not.
  bool pin(const shm::Region& region);
  // Whether pin() has a chance, and the region is large enough for it to pay.
  bool may_pin(const shm::Region& region) const;

  void set_routes(std::string model, ModelRoutes routes);
  // For control routes that ask a model, perhaps several times: routes them once, as any call.
  Result<Lease> choose(const HotRoute& route);
  // For ModelRoutes::shadow.
  std::shared_ptr<Shadow> create_shadow(std::shared_ptr<Servable> servable,
                                        const ShadowOptions& options);
  void remove_routes(std::string_view model) { routes_.remove(model); }

  int completion_fd() const { return completions_.fd(); }
  // Runs what waits for inline execution, answers and sends.
  void tick();
  // Answers and sends what instances have finished.
  void drain_completions();
  // Answers what is past its deadline in a queue; looks at the connections' deadlines once a
  // second.
  void expire(TimePoint now);
  // When expire() has work; kNever if nothing waits for a time.
  TimePoint next_expiry(TimePoint now) const;
  // New hot calls are refused, connections close after their pending answers.
  void begin_drain();
  // Lets go of every servable and of the memory that the pool keeps.
  void close();

  // Connections that want attend() to be called, in no particular order. Empties the list.
  bool somebody_needs_attention() const { return !attention_.empty(); }
  void take_attention(std::vector<std::shared_ptr<Connection>>& connections);

  std::int64_t in_flight() const { return in_flight_; }
  const FrontStats& front_stats() const { return front_; }
  Pool& pool() { return pool_; }
  Gpus& gpus() { return gpus_; }
  const EngineOptions& options() const { return options_; }
  shm::Regions& regions() { return regions_; }
  Tracer& tracer() { return tracer_; }

  // --- for connections ---
  // A hot call: finds the servable and gives out a request for it. An error has taken nothing.
  Result<Request*> begin(const HotRoute& route, TimePoint now);
  // A request for a target that was found before.
  Request* begin_on(Target target, Dialect dialect, TimePoint now);
  // Admits the request if it could be decoded. An error has been counted, and the request is gone.
  Status submit(Request& request, Connection& connection, Status decoded, TimePoint now);
  codec::DecodeContext decode_context(const Servable& servable);
  codec::EncodeContext encode_context(const Servable& servable);
  // An empty payload for one answer; valid until the next is asked for.
  Payload& answer_payload();
  net::ReadScratch& scratch() { return scratch_; }
  void connection_opened(Connection& connection);
  void connection_closed(Connection& connection);
  void cancel(Request& request);
  // The client sends nothing more. Whoever closes his side while he waits has given up, as far as
  // can be told: what still waits for an instance is not computed for nobody. What runs already, or
  // came just now, is answered, for those that close their side with their last request.
  void client_closed(Connection& connection, TimePoint now);
  void mark_dirty(Connection& connection);
  void flush_dirty(TimePoint now);
  // Whether the last two reads that brought inline work were this connection's and nothing of the
  // others waits. Called once per such read.
  bool talks_alone(const Connection& connection);
  // Such a read's work, and perhaps a look for the next.
  std::uint32_t answer_at_once(Connection& connection, TimePoint now);
  // Whether the last read was this connection's and brought the only request that is under way, to
  // be answered by a device. Called once per read.
  bool device_works_for(const Connection& connection) {
    return std::exchange(launched_for_, nullptr) == &connection;
  }
  // After such a read: perhaps a look for the answer, and for the next request.
  std::uint32_t await_device(Connection& connection, TimePoint now);
  void request_attention(Connection& connection);
  void count_response(int status);
  FrontStats& front() { return front_; }
  std::string& path_scratch() { return path_scratch_; }

 private:
  // BatchSink: an inline batch.
  void finished(std::unique_ptr<Batch> batch) override;
  Result<Target> target_of(const HotRoute& route);
  Status own_inputs(Request& request);
  void answer(std::unique_ptr<Batch> batch);
  void answer_request(Batch& batch, std::size_t item, TimePoint now);
  void count_success(const Batch& batch, const Request& request, TimePoint now);
  void count_failure(const Request& request, Code code, FailureReason reason, TimePoint now);
  // A request has ended, with the batch that it was in.
  void trace(const Request& request, const Batch* batch, Code code, TimePoint answering);
  void dispose(Request& request);
  // Gives memory back to the system when nothing much has happened for a while.
  void trim_after_burst();
  bool looks_like_burst() const;

  const EngineOptions options_;
  HostDevice host_;
  Pool pool_;
  Gpus gpus_;
  BatchPool batches_;
  CompletionQueue completions_;
  RouteTable routes_;
  shm::Regions regions_;
  RequestPool requests_;
  Tracer tracer_;
  net::ReadScratch scratch_;
  FrontStats front_;
  bool draining_ = false;
  std::int64_t in_flight_ = 0;
  TimePoint last_sweep_{};
  // FrontStats::bytes_received at the last trim and at the last sweep.
  std::uint64_t trimmed_at_ = 0;
  std::uint64_t swept_at_ = 0;
  int quiet_sweeps_ = 0;
  bool burst_ = false;                    // since the last trim
  TimePoint earliest_deadline_ = kNever;  // of admitted requests; a lower bound

  const LaneLooks looks_;
  BusyPoll busy_poll_;
  BusyPoll device_poll_;
  const Connection* last_talker_ = nullptr;   // compared, never followed, as these two
  const Connection* launched_for_ = nullptr;  // see device_works_for()
  const Connection* last_alone_ = nullptr;    // of those for which a device worked alone
  bool deadline_moved_ = false;  // the loop's timer does not know of earliest_deadline_ yet
  bool others_wait_ = false;     // inline work of several reads waits for the tick
  std::vector<std::shared_ptr<Servable>> inline_ready_;  // have work for tick()
  std::vector<std::shared_ptr<Servable>> inline_running_;
  std::vector<Connection*> connections_;
  std::vector<Connection*> dirty_;
  std::vector<Connection*> attention_;

  std::mutex servables_mutex_;
  std::vector<std::weak_ptr<Servable>>
      servables_;  // guarded; every one that may have waiting requests

  // Reused between answers.
  Payload payload_;
  std::vector<codec::OutputView> outputs_;
  std::string path_scratch_;
};

}  // namespace servolley::engine
