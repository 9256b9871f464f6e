#pragma once

// batching [layer 4]: which requests run together, and when. Pure: items and `now` go in, batches
// and times come out; no threads, no clock, no tensors. The engine's requests derive from Item.

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/status.h"

namespace servolley::batching {

// One waiting request.
struct Item {
  std::uint32_t rows = 1;
  std::uint64_t bytes = 0;  // of its tensors: what joining a batch costs to copy
  // Never shares a batch (its tensors do not agree on a batch dimension).
  bool alone = false;
  // 0 is the most urgent; within a priority the order is first in, first out.
  std::uint32_t priority = 0;
  // Items share a batch only if these are equal: everything about the shapes but the batch
  // dimension. The storage belongs to whoever derives from Item and does not change while it waits.
  std::span<const std::int64_t> shape_key;
  std::uint64_t shape_hash = 0;
  TimePoint admitted{};
  TimePoint deadline = kNever;

  // Owned by the queue.
  Item* previous = nullptr;
  Item* next = nullptr;
  bool queued = false;
};

// A hash for Item::shape_hash.
std::uint64_t hash_shape_key(std::span<const std::int64_t> key);

struct Policy {
  std::uint32_t max_batch_rows = 1;
  // Refuse requests with more rows than that, or let them run alone.
  bool refuse_oversize = false;
  std::uint32_t max_queue_size = 4096;  // items
  // How long the oldest request of an under-full batch waits for company. 0: take what is there.
  Duration max_queue_delay{0};
  // Ascending. A batch is cut to the largest of these that is filled, and goes at once when one is.
  std::vector<std::uint32_t> preferred_rows;
};

// Waiting items, grouped into lanes of equal shape so that a misfit never stops the others.
class Queue {
 public:
  static constexpr std::uint64_t kNoLimit = ~std::uint64_t{0};

  explicit Queue(Policy policy);

  // INVALID_ARGUMENT if the item is larger than the limit and oversize is refused, UNAVAILABLE if
  // the queue is full, DEADLINE_EXCEEDED if its deadline has passed. On OK the item stays linked
  // until it is taken, expired or removed.
  Status admit(Item& item, TimePoint now);

  // Appends to `batch` the items that shall run together now: the most urgent lane that is ready,
  // or nothing. Appends to `expired` what is past its deadline.
  // Items join only while their bytes stay within `max_bytes` together; the first goes whatever
  // its size. If a list finds no memory (std::bad_alloc), what is in none yet waits on.
  void take(TimePoint now, std::vector<Item*>& batch, std::vector<Item*>& expired,
            std::uint64_t max_bytes = kNoLimit);

  // Takes everything that is past its deadline.
  void expire(TimePoint now, std::vector<Item*>& expired);

  // Unlinks an item that waits here.
  void remove(Item& item);

  // When take() will yield a batch that it does not yield at `now` though nothing more is admitted:
  // `now` if one is ready, kNever if nothing waits.
  TimePoint next_ready(TimePoint now) const;
  // No waiting item's deadline is earlier (a lower bound; exact after expire()).
  TimePoint next_deadline() const { return next_deadline_; }

  std::size_t size() const { return size_; }
  const Policy& policy() const { return policy_; }
  void set_policy(Policy policy) { policy_ = std::move(policy); }

 private:
  struct Lane {
    std::uint64_t hash = 0;
    Item* head = nullptr;
    Item* tail = nullptr;
    std::uint64_t rows = 0;
    bool alone = false;
  };

  Lane& lane_for(const Item& item);
  std::size_t lane_of(const Item& item) const;
  void link(Lane& lane, Item& item);
  void unlink(Lane& lane, Item& item);
  void drop_if_empty(std::size_t lane);
  TimePoint ready_at(const Lane& lane) const;
  std::uint32_t target_rows(const Lane& lane) const;

  Policy policy_;
  std::vector<Lane> lanes_;
  std::size_t size_ = 0;
  TimePoint next_deadline_ = kNever;
};

}  // namespace servolley::batching
