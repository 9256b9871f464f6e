#include "engine/engine.h"

#include <malloc.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "base/processors.h"
#include "engine/shared_tensors.h"

namespace servolley::engine {
namespace {

constexpr Duration kSweepInterval = std::chrono::seconds(1);
constexpr std::size_t kAlignment = 64;
// A sweep is quiet if less than that came in since the one before, and so many in a row end a
// burst.
constexpr std::uint64_t kQuietBytes = 64 << 10;
constexpr int kQuietSweeps = 2;
// What makes it a burst: traffic, or memory that traffic (of compressed bodies, say) has left in
// the pool.
constexpr std::uint64_t kBurstBytes = 1 << 20;
constexpr std::size_t kKeptBytes = 8 << 20;

LaneLooks looks_of(const EngineOptions& options) {
  const int processors = options.processors > 0 ? options.processors : granted_processors();
  return options.busy_poll_us > 0 && processors >= kProcessorsForLooks ? options.lane_looks
                                                                       : LaneLooks{};
}

}  // namespace

Status in_dialect(const Status& status, Dialect dialect) {
  const bool overload =
      status.code() == Code::kDeadlineExceeded || status.code() == Code::kResourceExhausted;
  return dialect == Dialect::kOipHttp && overload ? unavailable(status.message()) : status;
}

Engine::Engine(const EngineOptions& options)
    : options_(options),
      pool_(host_, {.ceiling_bytes = options.pool_bytes}),
      gpus_(options.cuda_library, options.gpu_pool_bytes, host_, pool_),
      regions_(options.shared_memory),
      looks_(looks_of(options)),
      busy_poll_(std::chrono::microseconds(options.busy_poll_us)),
      device_poll_(looks_.loop) {}

Engine::~Engine() {
  // Connections outlive the engine only as closed ones.
  while (!connections_.empty()) connections_.back()->closed();
}

Result<std::shared_ptr<Servable>> Engine::create_servable(std::string name, std::int64_t version,
                                                          std::shared_ptr<Runner> runner,
                                                          ServableOptions options) {
  if (options.max_queue_size == 0) options.max_queue_size = options_.queue_size;
  options.inline_threshold_us = options_.inline_threshold_us;
  options.load_niceness = options_.load_niceness;
  auto servable = Servable::create(std::move(name), version, std::move(runner), options,
                                   {pool_, batches_, completions_, looks_});
  if (servable) {
    const std::lock_guard lock(servables_mutex_);
    std::erase_if(servables_, [](const auto& s) { return s.expired(); });
    servables_.push_back(*servable);
  }
  return servable;
}

void Engine::set_routes(std::string model, ModelRoutes routes) {
  routes_.set(std::move(model), std::move(routes));
}

Result<Lease> Engine::choose(const HotRoute& route) {
  auto target = target_of(route);
  if (!target) return std::move(target).error();
  return Lease(std::move(*target), route.dialect);
}

std::shared_ptr<Shadow> Engine::create_shadow(std::shared_ptr<Servable> servable,
                                              const ShadowOptions& options) {
  return std::make_shared<Shadow>(std::move(servable), options, pool_);
}

Result<Target> Engine::target_of(const HotRoute& route) {
  if (draining_) return unavailable("the server is shutting down");
  auto target = routes_.find(route);
  if (!target && !routes_.knows(route.model)) ++front_.unknown_model_requests;
  return target;
}

Result<Request*> Engine::begin(const HotRoute& route, TimePoint now) {
  auto target = target_of(route);
  if (!target) return std::move(target).error();
  return begin_on(std::move(*target), route.dialect, now);
}

Request* Engine::begin_on(Target target, Dialect dialect, TimePoint now) {
  Request* request = requests_.acquire();
  request->servable = std::move(target.servable);
  request->shadow = std::move(target.shadow);
  request->dialect = dialect;
  request->received = now;
  if (tracer_.on()) [[unlikely]] {
    request->traced = tracer_.sample(request->servable->name());
  }
  return request;
}

Status Engine::submit(Request& request, Connection& connection, Status status, TimePoint now) {
  bool run_inline = false;
  if (status.ok() && request.infer.uses_shared_memory()) {
    status = read_shared_tensors(request, decode_context(*request.servable), regions_);
  }
  if (status.ok() && !request.body) status = own_inputs(request);
  if (status.ok()) {
    prepare_for_batching(request, request.servable->signature().batched);
    status = request.servable->admit(request, now, &run_inline);
  }
  if (!status.ok()) {
    const bool rejected =
        status.code() == Code::kUnavailable || status.code() == Code::kDeadlineExceeded;
    count_failure(request, status.code(),
                  rejected ? FailureReason::kRejected : FailureReason::kOther, now);
    trace(request, nullptr, status.code(), now);
    requests_.release(&request);
    return status;
  }
  const bool alone = ++in_flight_ == 1;
  if (!alone) device_poll_.disturbed();
  launched_for_ = alone && !request.servable->devices().empty() ? &connection : nullptr;
  request.connection = &connection;
  connection.add_open(request);
  const bool earlier = request.deadline < earliest_deadline_;
  if (earlier) {
    earliest_deadline_ = request.deadline;
    deadline_moved_ = true;
  }
  if (run_inline && std::find(inline_ready_.begin(), inline_ready_.end(), request.servable) ==
                        inline_ready_.end()) {
    inline_ready_.push_back(request.servable);
  }
  // The loop also has to learn of a deadline that is earlier than those that it knows.
  if (run_inline || earlier) connection.request_tick();
  return {};
}

codec::DecodeContext Engine::decode_context(const Servable& servable) {
  return {.signature = servable.signature(),
          .model = servable.name(),
          .pool = pool_,
          .decoded_bytes_limit = options_.decoded_bytes,
          .shared_memory = regions_.enabled()};
}

codec::EncodeContext Engine::encode_context(const Servable& servable) {
  return {.signature = servable.signature(),
          .model = servable.name(),
          .version = servable.version_text(),
          .pool = pool_};
}

Result<std::shared_ptr<const cuda::IpcMemory>> Engine::open_cuda_memory(
    std::int64_t device, std::span<const std::byte> handle, std::uint64_t bytes) {
  if (device < 0 || device > std::numeric_limits<int>::max()) {
    return invalid_argument("there is no CUDA device " + std::to_string(device));
  }
  auto gpu = gpus_.use(static_cast<int>(device));
  if (!gpu) {  // its words are for the administrator: they may name files
    return Status(gpu.error().code(), "there is no usable CUDA device " + std::to_string(device));
  }
  return (*gpu)->device->open_ipc(handle, static_cast<std::size_t>(bytes));
}

bool Engine::may_pin(const shm::Region& region) const {
  return region.bytes() >= HostDevice::kPinnedFromBytes && !gpus_.in_use().empty();
}

bool Engine::pin(const shm::Region& region) {
  // Any GPU: what one pins is pinned for all.
  for (const GpuInUse* gpu : gpus_.in_use()) {
    if (!gpu->device->broken()) return region.pin(gpu->device);
  }
  return false;
}

Payload& Engine::answer_payload() {
  payload_.clear();
  return payload_;
}

Status Engine::own_inputs(Request& request) {
  // The inputs lie in the read buffer, which the next read overwrites. Only small bodies come here.
  const auto rounded = [](std::size_t bytes) {
    return (bytes + kAlignment - 1) & ~(kAlignment - 1);
  };
  std::size_t total = 0;
  for (const auto& input : request.infer.inputs) {
    if (!input.owner && !input.shared) total += rounded(input.view.bytes);
  }
  if (total == 0) return {};
  auto buffer = pool_.allocate(total);
  if (!buffer) return std::move(buffer).error();
  request.body = std::move(*buffer);
  std::byte* to = request.body.data();
  for (auto& input : request.infer.inputs) {
    if (input.owner || input.shared || input.view.bytes == 0) continue;
    std::memcpy(to, input.view.data, input.view.bytes);
    input.view.data = to;
    to += rounded(input.view.bytes);
  }
  return {};
}

bool Engine::talks_alone(const Connection& connection) {
  const bool alone = last_talker_ == &connection && !others_wait_ && !deadline_moved_;
  last_talker_ = &connection;
  others_wait_ = !alone;
  return alone;
}

std::uint32_t Engine::answer_at_once(Connection& connection, TimePoint now) {
  busy_poll_.asked(now);
  tick();
  const std::uint32_t bits = connection.attend();
  if (somebody_needs_attention()) return bits | kTick;  // which hands them out
  if (bits == 0) busy_poll_.look(connection.descriptor(), completion_fd());
  return bits;
}

std::uint32_t Engine::await_device(Connection& connection, TimePoint now) {
  if (std::exchange(last_alone_, &connection) != &connection) device_poll_.disturbed();
  device_poll_.asked(now);
  if (!device_poll_.look(connection.descriptor(), completion_fd())) return connection.attend();
  drain_completions();
  const std::uint32_t bits = connection.attend();
  if (somebody_needs_attention()) return bits | kTick;  // which hands them out
  if (bits == 0 && in_flight_ == 0) {
    busy_poll_.asked(now);
    busy_poll_.look(connection.descriptor(), completion_fd());
  }
  return bits;
}

void Engine::tick() {
  others_wait_ = false;
  deadline_moved_ = false;
  inline_running_.swap(inline_ready_);
  for (auto& servable : inline_running_) servable->run_inline(*this);
  inline_running_.clear();
  flush_dirty(Clock::now());
}

void Engine::drain_completions() {
  for (auto batch = completions_.take(); batch;) {
    auto next = std::move(batch->next);
    answer(std::move(batch));
    batch = std::move(next);
  }
  flush_dirty(Clock::now());
}

void Engine::expire(TimePoint now) {
  if (earliest_deadline_ <= now) {
    std::vector<std::shared_ptr<Servable>> live;
    {
      const std::lock_guard lock(servables_mutex_);
      for (const auto& weak : servables_) {
        if (auto servable = weak.lock()) live.push_back(std::move(servable));
      }
    }
    earliest_deadline_ = kNever;
    for (const auto& servable : live) {
      servable->expire(now, *this);
      earliest_deadline_ = std::min(earliest_deadline_, servable->next_deadline());
    }
  }
  if (now - last_sweep_ >= kSweepInterval) {
    last_sweep_ = now;
    for (Connection* connection : connections_) connection->check_deadline(now);
    trim_after_burst();
  }
  flush_dirty(now);
}

TimePoint Engine::next_expiry(TimePoint now) const {
  TimePoint next = earliest_deadline_;
  if (!connections_.empty() || burst_ || looks_like_burst())
    next = std::min(next, last_sweep_ + kSweepInterval);
  return next == kNever ? kNever : std::max(next, now);
}

bool Engine::looks_like_burst() const {
  const PoolStats pool = pool_.stats();
  return front_.bytes_received - trimmed_at_ >= kBurstBytes ||
         pool.cached_bytes - pool.cached_pinned_bytes >= kKeptBytes;
}

void Engine::trim_after_burst() {
  const std::uint64_t received = front_.bytes_received;
  burst_ = burst_ || looks_like_burst();
  const bool quiet = in_flight_ == 0 && received - swept_at_ < kQuietBytes;
  swept_at_ = received;
  quiet_sweeps_ = quiet ? quiet_sweeps_ + 1 : 0;
  if (!burst_ || quiet_sweeps_ < kQuietSweeps) return;
  burst_ = false;
  trimmed_at_ = received;
  pool_.trim_ordinary();
  // The C library keeps freed memory, too: strings, Python's objects, what the runtime had in
  // between.
  ::malloc_trim(0);
}

void Engine::begin_drain() {
  draining_ = true;
  for (Connection* connection : connections_) {
    connection->drain();
    mark_dirty(*connection);
  }
  flush_dirty(Clock::now());
}

void Engine::close() {
  routes_.clear();
  inline_ready_.clear();
  regions_.clear();
  pool_.trim();
}

void Engine::connection_opened(Connection& connection) {
  if (connection.from_outside()) {
    ++front_.connections;
    ++front_.connections_total;
  }
  connections_.push_back(&connection);
  if (draining_) connection.drain();
}

void Engine::connection_closed(Connection& connection) {
  if (connection.from_outside()) --front_.connections;
  const auto forget = [&](std::vector<Connection*>& list) {
    const auto at = std::find(list.begin(), list.end(), &connection);
    if (at == list.end()) return;
    *at = list.back();
    list.pop_back();
  };
  forget(connections_);
  forget(dirty_);
  forget(attention_);
}

void Engine::cancel(Request& request) {
  if (!request.servable->cancel(request)) return;  // comes back with its batch
  const TimePoint now = Clock::now();
  count_failure(request, Code::kCancelled, FailureReason::kCanceled, now);
  trace(request, nullptr, Code::kCancelled, now);
  dispose(request);
}

void Engine::client_closed(Connection& connection, TimePoint now) {
  constexpr Duration kJustNow = std::chrono::milliseconds(10);
  const Status gone(Code::kCancelled, "the client has closed its side of the connection");
  for (Request* next = connection.open_requests(); next;) {
    Request& request = *std::exchange(next, next->open_next);
    if (now - request.received < kJustNow || request.servable->runs_inline()) continue;
    if (!request.servable->withdraw(request)) continue;
    connection.remove_open(request);
    count_failure(request, gone.code(), FailureReason::kCanceled, now);
    trace(request, nullptr, gone.code(), now);
    connection.session()->fail(request, gone, now);
    dispose(request);
  }
}

void Engine::mark_dirty(Connection& connection) {
  if (connection.dirty) return;
  connection.dirty = true;
  dirty_.push_back(&connection);
}

void Engine::flush_dirty(TimePoint now) {
  // Sending may let a connection parse on and be marked again: the list may grow while it is
  // walked.
  for (std::size_t i = 0; i < dirty_.size(); ++i) {
    dirty_[i]->dirty = false;
    dirty_[i]->flush(now);
  }
  dirty_.clear();
}

void Engine::request_attention(Connection& connection) {
  if (connection.attention_requested) return;
  connection.attention_requested = true;
  attention_.push_back(&connection);
}

void Engine::take_attention(std::vector<std::shared_ptr<Connection>>& connections) {
  for (Connection* connection : attention_) {
    connection->attention_requested = false;
    connections.push_back(connection->shared_from_this());
  }
  attention_.clear();
}

void Engine::count_response(int status) {
  if (status >= 0 && static_cast<std::size_t>(status) < front_.responses.size()) {
    ++front_.responses[static_cast<std::size_t>(status)];
  }
}

void Engine::dispose(Request& request) {
  --in_flight_;
  request.servable->answered();
  requests_.release(&request);
}

}  // namespace servolley::engine
