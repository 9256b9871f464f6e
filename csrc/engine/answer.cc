// How finished batches become answers and numbers. Loop thread.

#include "codec/compression.h"
#include "codec/oip_json.h"
#include "codec/tfs_json.h"
#include "engine/engine.h"

namespace servolley::engine {
namespace {

// A full queue or a passing overload: come back soon.
constexpr std::string_view kRetryAfter = "Retry-After: 1\r\n";
// What we would have read instead.
constexpr std::string_view kReadableCodings = "Accept-Encoding: gzip, deflate\r\n";

std::int64_t epoch_ms() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::uint64_t ns_between(TimePoint from, TimePoint to) {
  return to > from ? static_cast<std::uint64_t>(to_ns(to - from)) : 0;
}

}  // namespace

void Engine::finished(std::unique_ptr<Batch> batch) { answer(std::move(batch)); }

void Engine::answer(std::unique_ptr<Batch> batch) {
  if (batch->items.empty()) {
    batches_.release(std::move(batch));
    return;
  }
  // All requests of a batch belong to one servable; it must outlive the loop below.
  const std::shared_ptr<Servable> servable = batch->request(0).servable;
  const TimePoint start = Clock::now();
  for (std::size_t i = 0; i < batch->items.size(); ++i) answer_request(*batch, i, start);
  if (batch->executed) {
    ServableStats& stats = servable->stats();
    const std::uint64_t input_ns = ns_between(batch->taken, batch->inputs_ready);
    const std::uint64_t infer_ns = ns_between(batch->inputs_ready, batch->run_end);
    const std::uint64_t output_ns = ns_between(start, Clock::now());
    BatchSizeStats& size = stats.batch_of(batch->rows);
    ++size.executions;
    size.compute_input_ns += input_ns;
    size.compute_infer_ns += infer_ns;
    size.compute_output_ns += output_ns;
    ++stats.executions;
    // Triton's sums run over requests: each carries the phases of the batch that it ran in.
    stats.compute_output_ns += output_ns * batch->items.size();
    stats.compute_latency.observe(infer_ns);
    stats.batch_rows.observe(static_cast<std::uint64_t>(batch->rows));
    stats.last_inference_ms = epoch_ms();
  }
  batches_.release(std::move(batch));
}

void Engine::answer_request(Batch& batch, std::size_t item, TimePoint now) {
  Request& request = batch.request(item);
  HttpConnection* connection = request.connection;
  if (!connection) {
    count_failure(request, Code::kCancelled, FailureReason::kCanceled, now);
    dispose(request);
    return;
  }
  connection->remove_open(request);
  Status status = batch.status;
  FailureReason reason = batch.failure;
  if (status.ok()) {
    net::ResponseHead head;
    payload_.clear();
    status = encode(batch, item, head);
    reason = FailureReason::kOther;
    if (status.ok()) {
      count_success(batch, request, now);
      connection->respond(request.exchange, head, payload_, now);
    }
    payload_.clear();
  }
  if (!status.ok()) {
    status = in_dialect(status, request.dialect);
    count_failure(request, status.code(), reason, now);
    respond_error(*connection, request.exchange, status, now);
  }
  dispose(request);
}

Status Engine::encode(const Batch& batch, std::size_t item, net::ResponseHead& head) {
  const Request& request = batch.request(item);
  const Servable& servable = *request.servable;
  const codec::EncodeContext context{.signature = servable.signature(),
                                     .model = servable.name(),
                                     .version = servable.version_text(),
                                     .pool = pool_};
  outputs_.clear();
  for (std::size_t o = 0; o < batch.outputs.size(); ++o) {
    outputs_.push_back({.view = rows_of(batch, o, item), .owner = &batch.outputs[o].owner});
  }
  head.content_type = "application/json";
  if (request.dialect == Dialect::kTfsHttp) {
    return codec::encode_tfs_predict(request.infer, outputs_, context, payload_);
  }
  const auto info = codec::encode_oip_json(request.infer, outputs_, context, payload_);
  if (!info) return info.error();
  head.inference_json_length = info->json_length;
  if (info->json_length > 0) head.content_type = "application/octet-stream";
  if (request.response_coding != codec::Coding::kIdentity) {
    auto deflated = codec::deflate(request.response_coding, payload_, pool_);
    if (!deflated) return std::move(deflated).error();
    head.content_encoding = request.response_coding == codec::Coding::kGzip ? "gzip" : "deflate";
    payload_.clear();
    const std::byte* data = deflated->owner.data();
    payload_.add(std::move(deflated->owner), data, deflated->size);
  }
  return {};
}

void Engine::respond_error(HttpConnection& connection, std::uint64_t exchange, const Status& status,
                           TimePoint now) {
  // Not the members: answering may let the connection parse on and refuse the next call from in
  // here.
  std::string body;
  codec::append_error_json(status.message(), body);
  Payload payload;
  payload.add_static(body);
  net::ResponseHead head;
  head.status = http_status(status.code());
  head.content_type = "application/json";
  if (status.code() == Code::kUnavailable) head.extra = kRetryAfter;
  if (status.code() == Code::kUnsupportedMedia) head.extra = kReadableCodings;
  connection.respond(exchange, head, payload, now);
}

void Engine::refuse(HttpConnection& connection, std::uint64_t exchange, const Status& status) {
  respond_error(connection, exchange, status, Clock::now());
}

void Engine::count_success(const Batch& batch, const Request& request, TimePoint now) {
  ServableStats& stats = request.servable->stats();
  const std::uint64_t total_ns = ns_between(request.received, now);
  const std::uint64_t queue_ns = ns_between(request.admitted, batch.taken);
  ++stats.success_count;
  stats.success_ns += total_ns;
  stats.queue_ns += queue_ns;
  stats.compute_input_ns += ns_between(batch.taken, batch.inputs_ready);
  stats.compute_infer_ns += ns_between(batch.inputs_ready, batch.run_end);
  stats.inference_rows += request.rows;
  stats.request_latency.observe(total_ns);
  stats.queue_latency.observe(queue_ns);
  ++stats.responses[static_cast<std::size_t>(request.dialect)][static_cast<std::size_t>(Code::kOk)];
}

void Engine::count_failure(const Request& request, Code code, FailureReason reason, TimePoint now) {
  ServableStats& stats = request.servable->stats();
  ++stats.failures[static_cast<std::size_t>(reason)];
  stats.fail_ns += ns_between(request.received, now);
  ++stats.responses[static_cast<std::size_t>(request.dialect)][static_cast<std::size_t>(code)];
}

}  // namespace servolley::engine
