#include "engine/tracer.h"

#include <algorithm>
#include <utility>

#include "engine/batch.h"
#include "engine/servable.h"

namespace servolley::engine {
namespace {

bool samples(const TraceRule& rule) { return rule.rate > 0 && rule.remaining != 0; }

}  // namespace

void Tracer::set_rule(std::string_view model, TraceRule rule) {
  rules_.insert_or_assign(std::string(model), Sampling{.rule = rule, .seen = 0});
  reconsider();
}

void Tracer::remove_rule(std::string_view model) {
  const auto at = rules_.find(model);
  if (at != rules_.end()) rules_.erase(at);
  reconsider();
}

TraceRule Tracer::rule(std::string_view model) const {
  auto at = rules_.find(model);
  if (at == rules_.end()) at = rules_.find(std::string_view());
  return at == rules_.end() ? TraceRule{} : at->second.rule;
}

bool Tracer::sample(std::string_view model) {
  const auto at = find(model);
  if (at == rules_.end() || !samples(at->second.rule)) return false;
  Sampling& sampling = at->second;
  if (++sampling.seen < sampling.rule.rate) return false;
  sampling.seen = 0;
  if (sampling.rule.remaining > 0 && --sampling.rule.remaining == 0) reconsider();
  return true;
}

void Tracer::keep(const Request& request, const Batch* batch, Code code, TimePoint answering,
                  TimePoint answered) {
  if (traces_.size() >= kKept) {
    ++dropped_;
    return;
  }
  Trace& trace = traces_.emplace_back();
  trace.id = ++last_id_;
  trace.model = request.servable->name();
  trace.version = request.servable->version();
  trace.request_id = request.infer.id;
  trace.dialect = request.dialect;
  trace.code = code;
  trace.rows = request.rows;
  trace.received = request.received;
  trace.answering = answering;
  trace.answered = answered;
  if (!batch) return;
  trace.admitted = request.admitted;
  if (!batch->executed) return;
  trace.batch_rows = batch->rows;
  trace.taken = batch->taken;
  trace.inputs_ready = batch->inputs_ready;
  trace.run_end = batch->run_end;
}

std::vector<Trace> Tracer::take() { return std::exchange(traces_, {}); }

Tracer::Rules::iterator Tracer::find(std::string_view model) {
  const auto at = rules_.find(model);
  return at != rules_.end() ? at : rules_.find(std::string_view());
}

void Tracer::reconsider() {
  on_ = std::any_of(rules_.begin(), rules_.end(),
                    [](const auto& entry) { return samples(entry.second.rule); });
}

}  // namespace servolley::engine
