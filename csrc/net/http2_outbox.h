#pragma once

// Messages of one call that wait to be framed: for the peer's windows, or for their turn.

#include <cstddef>
#include <vector>

#include "memory/payload.h"
#include "memory/pool.h"
#include "net/http2.h"
#include "net/http2_output.h"

namespace servolley::net {

class Outbox {
 public:
  // Puts one message behind the others, with its prefix. Empties `body`. False: no memory.
  bool add_message(Payload& body, bool compressed, Pool& pool);
  std::size_t size() const { return size_; }
  // Moves the first `bytes`, at most size(), to the output. False: no memory.
  bool move_to(FrameOutput& output, std::size_t bytes);
  // Forgets everything; keeps a little capacity for the next call.
  void clear();

 private:
  // Larger segments wait under their own lease, whether they are copied when framed or not.
  static constexpr std::size_t kSmallBytes = 512;
  static constexpr std::size_t kKeepBytes = 1024;
  static constexpr std::size_t kKeepPieces = 16;

  struct Piece {
    Buffer owner;                     // empty: the bytes are in small_
    const std::byte* data = nullptr;  // with an owner
    std::size_t at = 0;               // without: offset in small_
    std::size_t size = 0;
  };

  void add_small(const void* bytes, std::size_t size);
  void drop_moved();

  std::vector<Piece> pieces_;  // before first_piece_: moved
  std::size_t first_piece_ = 0;
  std::vector<std::byte> small_;
  std::size_t small_moved_ = 0;  // the first bytes of small_ that were moved
  std::size_t size_ = 0;
};

}  // namespace servolley::net
