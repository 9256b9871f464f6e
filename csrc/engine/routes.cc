#include "engine/routes.h"

#include <charconv>
#include <utility>

#include "engine/shadow.h"

namespace servolley::engine {
namespace {

constexpr std::size_t kQuotedNameLimit = 100;

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const char c = a[i] >= 'A' && a[i] <= 'Z' ? static_cast<char>(a[i] + 32) : a[i];
    if (c != b[i]) return false;
  }
  return true;
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// Decodes %XX. A segment without an escape is returned as it is; others go to `scratch`, which was
// reserved for the whole target, so that earlier views stay valid. False on a broken escape.
bool percent_decode(std::string_view& segment, std::string& scratch) {
  if (segment.find('%') == std::string_view::npos) return true;
  const std::size_t start = scratch.size();
  for (std::size_t i = 0; i < segment.size(); ++i) {
    if (segment[i] != '%') {
      scratch += segment[i];
      continue;
    }
    if (segment.size() - i < 3) return false;
    const int high = hex_digit(segment[i + 1]);
    const int low = hex_digit(segment[i + 2]);
    if (high < 0 || low < 0) return false;
    scratch += static_cast<char>(high * 16 + low);
    i += 2;
  }
  segment = std::string_view(scratch).substr(start);
  return true;
}

bool all_digits(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

std::string_view next_segment(std::string_view& path) {
  const std::size_t slash = path.find('/');
  const std::string_view segment = path.substr(0, slash);
  path = slash == std::string_view::npos ? std::string_view() : path.substr(slash + 1);
  return segment;
}

// A model name as it may appear in a message: bounded, whatever the client sent.
std::string quoted(std::string_view name) {
  std::string text = "'";
  text += name.substr(0, kQuotedNameLimit);
  if (name.size() > kQuotedNameLimit) text += "...";
  return text + '\'';
}

RouteMatch read_version(std::string_view digits, HotRoute& route, Status& error) {
  std::int64_t version = 0;
  const auto [end, code] = std::from_chars(digits.data(), digits.data() + digits.size(), version);
  if (code != std::errc()) {
    error = invalid_argument("Failed to convert version: it does not fit 64 bits");
    return RouteMatch::kInvalid;
  }
  route.version = version;
  return RouteMatch::kHot;
}

RouteMatch match_oip(std::string_view rest, std::string& scratch, HotRoute& route, Status& error) {
  route.dialect = Dialect::kOipHttp;
  route.model = next_segment(rest);
  std::string_view verb = next_segment(rest);
  std::string_view version;
  if (verb == "versions") {
    version = next_segment(rest);
    verb = next_segment(rest);
    if (!all_digits(version)) return RouteMatch::kControl;
  }
  if (verb != "infer" || !rest.empty() || route.model.empty()) return RouteMatch::kControl;
  if (!percent_decode(route.model, scratch)) {
    error = invalid_argument("malformed percent-escape in the model name");
    return RouteMatch::kInvalid;
  }
  return version.empty() ? RouteMatch::kHot : read_version(version, route, error);
}

RouteMatch match_tfs(std::string_view rest, std::string& scratch, HotRoute& route, Status& error) {
  constexpr std::string_view kVerb = ":predict";
  if (!rest.ends_with(kVerb)) return RouteMatch::kControl;
  rest.remove_suffix(kVerb.size());
  route.dialect = Dialect::kTfsHttp;
  route.model = next_segment(rest);
  const std::string_view kind = next_segment(rest);
  std::string_view which = next_segment(rest);
  if (!rest.empty() || route.model.empty() || route.model.find(':') != std::string_view::npos) {
    return RouteMatch::kControl;
  }
  if (!percent_decode(route.model, scratch) || !percent_decode(which, scratch)) {
    error = invalid_argument("malformed percent-escape in the path");
    return RouteMatch::kInvalid;
  }
  if (kind.empty()) return which.empty() ? RouteMatch::kHot : RouteMatch::kControl;
  if (equals_ignoring_case(kind, "versions") && all_digits(which)) {
    return read_version(which, route, error);
  }
  if (equals_ignoring_case(kind, "labels") && !which.empty()) {
    route.label = which;
    return RouteMatch::kHot;
  }
  return RouteMatch::kControl;
}

// For a request that leaves the version to us.
Target target_of(ModelRoutes& model) {
  Target target{model.split.empty() ? model.default_version : model.split[model.choice.next()],
                nullptr};
  if (model.shadow && &model.shadow->servable() != target.servable.get() && model.shadow->due()) {
    target.shadow = model.shadow;
  }
  return target;
}

}  // namespace

RouteMatch match_hot_route(std::string_view method, std::string_view target, std::string& scratch,
                           HotRoute& route, Status& error) {
  constexpr std::size_t kPrefix = std::string_view("/v2/models/").size();
  if (method != "POST" || target.size() <= kPrefix) return RouteMatch::kControl;
  scratch.clear();
  scratch.reserve(target.size());
  route = {};
  const std::string_view path = target.substr(0, target.find('?'));
  if (path.size() <= kPrefix) return RouteMatch::kControl;
  const std::string_view prefix = path.substr(0, kPrefix);
  if (prefix == "/v2/models/") return match_oip(path.substr(kPrefix), scratch, route, error);
  if (equals_ignoring_case(prefix, "/v1/models/")) {
    return match_tfs(path.substr(kPrefix), scratch, route, error);
  }
  return RouteMatch::kControl;
}

void RouteTable::set(std::string model, ModelRoutes routes) {
  ModelRoutes& current = models_[std::move(model)];
  if (current.shadow && current.shadow != routes.shadow) current.shadow->retire();
  // Routes are set whenever anything about the model changes. A choice that began anew each time
  // would never come to whoever has a small share.
  if (current.choice.same_weights(routes.choice)) routes.choice = std::move(current.choice);
  current = std::move(routes);
}

void RouteTable::remove(std::string_view model) {
  const auto at = models_.find(model);
  if (at == models_.end()) return;
  if (at->second.shadow) at->second.shadow->retire();
  models_.erase(at);
}

void RouteTable::clear() {
  for (auto& [name, routes] : models_) {
    if (routes.shadow) routes.shadow->retire();
  }
  models_.clear();
}

Result<Target> RouteTable::find(const HotRoute& route) {
  const bool tfs = route.dialect == Dialect::kTfsHttp || route.dialect == Dialect::kTfsGrpc;
  const auto at = models_.find(route.model);
  std::optional<std::int64_t> version = route.version;
  if (at != models_.end()) {
    ModelRoutes& model = at->second;
    if (!route.label.empty()) {
      const auto label = model.labels.find(route.label);
      if (label == model.labels.end()) {
        return invalid_argument("Unrecognized servable version label: " +
                                std::string(route.label.substr(0, kQuotedNameLimit)));
      }
      version = label->second;
    }
    if (version) {
      const auto servable = model.versions.find(*version);
      if (servable != model.versions.end()) return Target{servable->second, nullptr};
    } else if (model.default_version) {
      return target_of(model);
    }
  }
  const std::string name = quoted(route.model);
  if (tfs) {
    const std::string bare = name.substr(1, name.size() - 2);
    return not_found("Servable not found for request: " +
                     (version ? "Specific(" + bare + ", " + std::to_string(*version) + ")"
                              : "Latest(" + bare + ")"));
  }
  if (at == models_.end()) {
    return not_found("Request for unknown model: " + name + " is not found");
  }
  if (!version) {
    return unavailable("Request for unknown model: " + name + " has no version at ready state");
  }
  return not_found("Request for unknown model: " + name + " version " + std::to_string(*version) +
                   " is not at ready state");
}

}  // namespace servolley::engine
