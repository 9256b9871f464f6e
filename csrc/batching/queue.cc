#include "batching/queue.h"

#include <algorithm>

namespace servolley::batching {
namespace {

bool same_key(const Item& a, const Item& b) {
  return std::equal(a.shape_key.begin(), a.shape_key.end(), b.shape_key.begin(), b.shape_key.end());
}

}  // namespace

std::uint64_t hash_shape_key(std::span<const std::int64_t> key) {
  std::uint64_t h = 0x9e3779b97f4a7c15U;  // splitmix64's increment and finaliser
  for (auto value : key) {
    h ^= static_cast<std::uint64_t>(value);
    h *= 0xbf58476d1ce4e5b9U;
    h ^= h >> 29;
  }
  return h;
}

Queue::Queue(Policy policy) : policy_(std::move(policy)) { lanes_.reserve(16); }

std::size_t Queue::lane_of(const Item& item) const {
  std::size_t i = 0;
  while (i < lanes_.size()) {
    const Lane& lane = lanes_[i];
    if (item.alone ? lane.head == &item
                   : !lane.alone && lane.hash == item.shape_hash && same_key(*lane.head, item)) {
      break;
    }
    ++i;
  }
  return i;
}

Queue::Lane& Queue::lane_for(const Item& item) {
  const std::size_t found = item.alone ? lanes_.size() : lane_of(item);
  if (found < lanes_.size()) return lanes_[found];
  lanes_.push_back(Lane{.hash = item.shape_hash, .alone = item.alone});
  return lanes_.back();
}

void Queue::link(Lane& lane, Item& item) {
  // Mostly one priority: the walk ends at once.
  Item* before = lane.tail;
  while (before && before->priority > item.priority) before = before->previous;
  item.previous = before;
  item.next = before ? before->next : lane.head;
  (item.previous ? item.previous->next : lane.head) = &item;
  (item.next ? item.next->previous : lane.tail) = &item;
  item.queued = true;
  lane.rows += item.rows;
  ++size_;
}

void Queue::unlink(Lane& lane, Item& item) {
  (item.previous ? item.previous->next : lane.head) = item.next;
  (item.next ? item.next->previous : lane.tail) = item.previous;
  item.previous = item.next = nullptr;
  item.queued = false;
  lane.rows -= item.rows;
  --size_;
}

void Queue::drop_if_empty(std::size_t lane) {
  if (lanes_[lane].head) return;
  lanes_[lane] = lanes_.back();
  lanes_.pop_back();
}

Status Queue::admit(Item& item, TimePoint now) {
  if (policy_.refuse_oversize && item.rows > policy_.max_batch_rows) {
    return invalid_argument("inference request batch-size must be <= " +
                            std::to_string(policy_.max_batch_rows));
  }
  if (item.deadline <= now) return {Code::kDeadlineExceeded, "Request timeout expired"};
  if (size_ >= policy_.max_queue_size) return unavailable("Exceeds maximum queue size");
  item.admitted = now;
  link(lane_for(item), item);
  next_deadline_ = std::min(next_deadline_, item.deadline);
  return {};
}

std::uint32_t Queue::target_rows(const Lane& lane) const {
  if (lane.alone) return 1;
  std::uint32_t target = policy_.max_batch_rows;
  if (lane.rows >= target || policy_.preferred_rows.empty()) return target;
  for (auto preferred : policy_.preferred_rows) {
    if (preferred <= lane.rows) target = preferred;
  }
  return lane.rows >= policy_.preferred_rows.front() ? target : policy_.max_batch_rows;
}

TimePoint Queue::ready_at(const Lane& lane) const {
  if (lane.alone || policy_.max_queue_delay == Duration::zero()) return TimePoint::min();
  if (lane.rows >= target_rows(lane)) return TimePoint::min();
  // A deadline must not be spent on waiting: at most half of what was left at admission.
  const Item& head = *lane.head;
  const TimePoint delayed = head.admitted + policy_.max_queue_delay;
  if (head.deadline == kNever) return delayed;
  return std::min(delayed, head.admitted + (head.deadline - head.admitted) / 2);
}

void Queue::take(TimePoint now, std::vector<Item*>& batch, std::vector<Item*>& expired,
                 std::uint64_t max_bytes) {
  if (next_deadline_ <= now) expire(now, expired);
  std::size_t best = lanes_.size();
  for (std::size_t i = 0; i < lanes_.size(); ++i) {
    if (ready_at(lanes_[i]) > now) continue;
    if (best == lanes_.size()) {
      best = i;
      continue;
    }
    const Item& a = *lanes_[i].head;
    const Item& b = *lanes_[best].head;
    if (a.priority != b.priority ? a.priority < b.priority : a.admitted < b.admitted) best = i;
  }
  if (best == lanes_.size()) return;
  Lane& lane = lanes_[best];
  const std::uint32_t target = target_rows(lane);
  std::uint64_t rows = 0;
  std::uint64_t bytes = 0;
  for (Item* item = lane.head; item && rows < target;) {
    Item* following = item->next;
    // The head always goes, even alone above the limit; of the others, what still fits.
    const bool fits = rows + item->rows <= target && bytes + item->bytes <= max_bytes;
    if (rows == 0 || fits) {
      rows += item->rows;
      bytes += item->bytes;
      batch.push_back(item);
      unlink(lane, *item);
    }
    item = following;
  }
  drop_if_empty(best);
  if (size_ == 0) next_deadline_ = kNever;
}

void Queue::expire(TimePoint now, std::vector<Item*>& expired) {
  TimePoint earliest = kNever;
  for (std::size_t i = 0; i < lanes_.size();) {
    for (Item* item = lanes_[i].head; item;) {
      Item* following = item->next;
      if (item->deadline <= now) {
        expired.push_back(item);
        unlink(lanes_[i], *item);
      } else {
        earliest = std::min(earliest, item->deadline);
      }
      item = following;
    }
    const std::size_t before = lanes_.size();
    drop_if_empty(i);
    if (lanes_.size() == before) ++i;
  }
  next_deadline_ = earliest;
}

void Queue::remove(Item& item) {
  const std::size_t lane = lane_of(item);
  unlink(lanes_[lane], item);
  drop_if_empty(lane);
  if (size_ == 0) next_deadline_ = kNever;
}

TimePoint Queue::next_ready(TimePoint now) const {
  TimePoint earliest = kNever;
  for (const Lane& lane : lanes_) earliest = std::min(earliest, ready_at(lane));
  return earliest == kNever ? kNever : std::max(earliest, now);
}

}  // namespace servolley::batching
