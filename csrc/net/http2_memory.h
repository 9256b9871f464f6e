#pragma once

// What nghttp2 allocates for each call: a handful of small blocks, the same ones again and again.

#include <nghttp2/nghttp2.h>

#include <array>
#include <cstddef>

namespace servolley::net {

class FrameMemory {
 public:
  FrameMemory();
  ~FrameMemory();
  FrameMemory(const FrameMemory&) = delete;
  FrameMemory& operator=(const FrameMemory&) = delete;

  // Valid as long as this is.
  nghttp2_mem* interface() { return &interface_; }

 private:
  static constexpr std::size_t kStep = 64;  // size classes are multiples of this
  static constexpr std::size_t kClasses = 16;
  static constexpr std::size_t kLarge = kClasses;
  static constexpr std::size_t kKeepBytes = 64 << 10;

  struct alignas(std::max_align_t) Block {
    union {
      std::size_t bytes;  // in use: what was asked for
      Block* next;        // kept
    };
    std::size_t size_class;
  };

  void* allocate(std::size_t bytes);
  void* resize(void* memory, std::size_t bytes);
  void release(void* memory);

  nghttp2_mem interface_;
  std::array<Block*, kClasses> kept_{};
  std::size_t kept_bytes_ = 0;
};

}  // namespace servolley::net
