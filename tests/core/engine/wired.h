#pragma once

#include <algorithm>
#include <string>
#include <string_view>

#include "harness.h"

namespace servolley::engine {

// A connection without a descriptor: whatever it says comes out of take_output().
class Wired {
 public:
  explicit Wired(Engine& engine, std::string_view alpn = {})
      : connection_(std::make_shared<Connection>(engine)) {
    connection_->opened(-1, alpn);
  }
  ~Wired() { connection_->closed(); }
  Wired(const Wired&) = delete;
  Wired& operator=(const Wired&) = delete;

  std::uint32_t send(std::string_view bytes) {
    std::uint32_t bits = 0;
    while (!bytes.empty()) {
      const auto space = connection_->receive_space();
      const std::size_t part = std::min(space.size(), bytes.size());
      std::memcpy(space.data(), bytes.data(), part);
      bits |= connection_->received(part);
      bytes.remove_prefix(part);
    }
    return bits;
  }
  // Everything that is to be sent now.
  std::string take() {
    std::string bytes;
    while (connection_->attend() & kOutput) {
      Payload output;
      connection_->take_output(output);
      for (const Segment& segment : output.segments()) {
        bytes.append(reinterpret_cast<const char*>(segment.data), segment.size);
      }
      connection_->writable();
    }
    return bytes;
  }
  Connection& connection() { return *connection_; }

 private:
  std::shared_ptr<Connection> connection_;
};

}  // namespace servolley::engine
