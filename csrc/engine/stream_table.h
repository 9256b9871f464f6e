#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace servolley::engine {

// Stream number -> T for the calls of one connection. Open addressing, because a node per call
// would be an allocation per call. References die with the next insert() or erase().
template <class T>
class StreamTable {
 public:
  T* find(std::uint32_t stream) {
    if (size_ == 0) return nullptr;
    for (std::size_t i = home(stream);; i = next(i)) {
      if (slots_[i].stream == stream) return &slots_[i].value;
      if (slots_[i].stream == kFree) return nullptr;
    }
  }

  T& insert(std::uint32_t stream) {
    if (size_ * 2 >= slots_.size()) grow();
    std::size_t i = home(stream);
    while (slots_[i].stream != kFree) i = next(i);
    slots_[i].stream = stream;
    slots_[i].value = T();
    ++size_;
    return slots_[i].value;
  }

  void erase(std::uint32_t stream) {
    if (size_ == 0) return;
    std::size_t hole = home(stream);
    while (slots_[hole].stream != stream) {
      if (slots_[hole].stream == kFree) return;
      hole = next(hole);
    }
    --size_;
    // Moves back what would not be found across the hole.
    for (std::size_t i = next(hole); slots_[i].stream != kFree; i = next(i)) {
      const std::size_t wanted = home(slots_[i].stream);
      const std::size_t mask = slots_.size() - 1;
      if (((i - wanted) & mask) >= ((i - hole) & mask)) {
        slots_[hole] = std::move(slots_[i]);
        hole = i;
      }
    }
    slots_[hole] = Slot();
    if (size_ == 0 && slots_.size() > kKeptSlots) slots_ = std::vector<Slot>();
  }

  // Calls `use` with every stream and its value; it must not insert or erase.
  template <class Use>
  void each(Use use) const {
    for (const Slot& slot : slots_) {
      if (slot.stream != kFree) use(slot.stream, slot.value);
    }
  }

  std::size_t size() const { return size_; }

 private:
  static constexpr std::uint32_t kFree = 0;  // stream 0 is the connection itself
  static constexpr std::size_t kKeptSlots = 256;
  struct Slot {
    std::uint32_t stream = kFree;
    T value{};
  };

  // A client's streams are the odd numbers in ascending order.
  std::size_t home(std::uint32_t stream) const { return (stream >> 1) & (slots_.size() - 1); }
  std::size_t next(std::size_t i) const { return (i + 1) & (slots_.size() - 1); }

  void grow() {
    std::vector<Slot> old(slots_.empty() ? 8 : slots_.size() * 2);
    old.swap(slots_);
    for (Slot& slot : old) {
      if (slot.stream == kFree) continue;
      std::size_t i = home(slot.stream);
      while (slots_[i].stream != kFree) i = next(i);
      slots_[i] = std::move(slot);
    }
  }

  std::vector<Slot> slots_;
  std::size_t size_ = 0;
};

}  // namespace servolley::engine
