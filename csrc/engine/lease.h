#pragma once

#include <memory>
#include <utility>

#include "engine/routes.h"

namespace servolley::engine {

// What a call that takes several steps was routed to, for as long as the call goes on: the version
// is not closed before, whatever becomes of the routes. Made by Engine::choose() on the loop
// thread; may be let go of on any.
class Lease {
 public:
  Lease(Target target, Dialect dialect) : target_(std::move(target)), dialect_(dialect) {
    target_.servable->hold();
  }
  ~Lease() { release(); }
  Lease(Lease&& other) noexcept
      : target_(std::exchange(other.target_, {})), dialect_(other.dialect_) {}
  Lease& operator=(Lease&&) = delete;

  // Of the requests that are begun with it.
  Dialect dialect() const { return dialect_; }
  // Where they go; without a servable once the lease was released.
  const Target& target() const { return target_; }
  void release() {
    const Target released = std::exchange(target_, {});
    if (released.servable) released.servable->let_go();
  }

 private:
  Target target_;
  Dialect dialect_;
};

// What whoever uses one after its release is told.
inline Status released() { return {Code::kFailedPrecondition, "the call's lease was released"}; }

}  // namespace servolley::engine
