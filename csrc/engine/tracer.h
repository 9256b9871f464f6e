#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/request.h"

namespace servolley::engine {

struct Batch;

// Which requests are traced: every rate-th, until `remaining` have been.
struct TraceRule {
  std::uint64_t rate = 0;       // 0 = none
  std::int64_t remaining = -1;  // -1 = any number
};

// When one request passed each stage. Steady time; stages that it did not reach are at the epoch.
struct Trace {
  std::uint64_t id = 0;  // from 1, in the order of the requests' ends
  std::string model;
  std::int64_t version = 0;
  std::string request_id;  // the client's; may be empty
  Dialect dialect = Dialect::kOipHttp;
  Code code = Code::kOk;
  std::int64_t rows = 0;
  std::int64_t batch_rows = 0;  // of all that ran together
  TimePoint received{};
  TimePoint admitted{};
  TimePoint taken{};
  TimePoint inputs_ready{};
  TimePoint run_end{};
  TimePoint answering{};
  TimePoint answered{};
};

// Decides which requests are traced and keeps what was seen of them until it is taken. Loop thread
// only. Costs one branch per request while nothing is traced.
class Tracer {
 public:
  // Traces that are kept; what comes on top is counted and dropped.
  static constexpr std::size_t kKept = 10'000;

  // Replaces the rule of one model; an empty name is for all models without one of their own.
  void set_rule(std::string_view model, TraceRule rule);
  void remove_rule(std::string_view model);
  // The rule that the model's requests follow now.
  TraceRule rule(std::string_view model) const;

  bool on() const { return on_; }
  // For every request, once, while on().
  bool sample(std::string_view model);
  // What `batch` says of a request that has ended; null: it was in none.
  void keep(const Request& request, const Batch* batch, Code code, TimePoint answering,
            TimePoint answered);
  std::vector<Trace> take();
  std::uint64_t dropped() const { return dropped_; }

 private:
  struct Sampling {
    TraceRule rule;
    std::uint64_t seen = 0;
  };
  using Rules = std::map<std::string, Sampling, std::less<>>;

  Rules::iterator find(std::string_view model);
  void reconsider();

  Rules rules_;
  bool on_ = false;
  std::vector<Trace> traces_;
  std::uint64_t last_id_ = 0;
  std::uint64_t dropped_ = 0;
};

}  // namespace servolley::engine
