#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/status.h"
#include "engine/servable.h"
#include "engine/stats.h"
#include "engine/weighted_choice.h"

namespace servolley::engine {

class Shadow;

// A call of one of the routes that never leave the core:
//   POST /v2/models/M[/versions/V]/infer
//   POST /v1/models/M[/versions/V|/labels/L]:predict
struct HotRoute {
  Dialect dialect = Dialect::kOipHttp;
  std::string_view model;  // decoded; lies in the target or in the caller's scratch
  std::optional<std::int64_t> version;
  std::string_view label;  // empty: none
};

enum class RouteMatch : std::uint8_t { kHot, kControl, kInvalid };

// Says whether a call is hot. kInvalid: hot by its form, but the version does not fit 64 bits or a
// percent-escape is broken; `*error` says so. Everything else is the control routes' business.
RouteMatch match_hot_route(std::string_view method, std::string_view target, std::string& scratch,
                           HotRoute& route, Status& error);

// Everything that is routable under one model name. Requests that name neither a version nor a
// label are spread over `split` by `choice`, or go to the default version where there is no split.
struct ModelRoutes {
  std::map<std::int64_t, std::shared_ptr<Servable>> versions;
  std::shared_ptr<Servable> default_version;
  std::vector<std::shared_ptr<Servable>> split;  // in the order of `choice`
  WeightedChoice choice;
  std::shared_ptr<Shadow> shadow;  // of the same requests
  std::map<std::string, std::int64_t, std::less<>> labels;
};

// Where a request goes, and its copy if one is due.
struct Target {
  std::shared_ptr<Servable> servable;
  std::shared_ptr<Shadow> shadow;
};

// Model name -> servables. Loop thread only.
class RouteTable {
 public:
  // A shadow that is no longer routed is retired; so by the next two. Weights that stay as they
  // were go on being chosen from where they were.
  void set(std::string model, ModelRoutes routes);
  void remove(std::string_view model);
  // Or the dialect's error.
  Result<Target> find(const HotRoute& route);
  bool knows(std::string_view model) const { return models_.find(model) != models_.end(); }
  void clear();

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const {
      return std::hash<std::string_view>()(text);
    }
  };
  std::unordered_map<std::string, ModelRoutes, Hash, std::equal_to<>> models_;
};

}  // namespace servolley::engine
