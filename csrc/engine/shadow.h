#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "engine/batch.h"
#include "engine/batch_runner.h"
#include "engine/comparison.h"
#include "engine/servable.h"

namespace servolley::engine {

struct ShadowOptions {
  std::uint32_t fraction_ppm = 1'000'000;  // of the requests that name no version, in millionths
  std::uint32_t max_in_flight = 64;        // copies that wait or run
  std::uint64_t max_bytes = std::uint64_t{64} << 20;  // of memory that they keep from the pool
};

// What became of the copies. All but the first three are written by the shadow's thread.
struct ShadowStats {
  std::uint64_t taken = 0;
  std::uint64_t dropped = 0;       // no room: copies in flight, or their memory
  std::uint64_t incompatible = 0;  // what this version cannot be asked, or answers nothing to
  std::uint64_t compared = 0;
  std::uint64_t failed = 0;
  std::uint64_t rows = 0;  // of what was compared
  std::uint64_t in_flight = 0;
  Comparison comparison;
};

// A second version that is asked what the first one has answered, and only compared with it.
//
// A copy of a request is taken when its answer is there: leases on the input and output buffers, no
// bytes. It waits in a ring for a thread of low priority that runs the version with an executor of
// its own and compares. So no answer ever waits for anything here: the ring has one writer, one
// reader and no lock, and a full one drops. Nothing of it is counted as traffic of either version.
class Shadow final : private BatchSink {
 public:
  // Quick: the executor is made by the thread.
  Shadow(std::shared_ptr<Servable> servable, const ShadowOptions& options, Pool& pool);
  ~Shadow() override { close(); }
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  const Servable& servable() const { return *servable_; }
  const ShadowOptions& options() const { return options_; }

  // Loop thread. Whether a copy of the next request is due, by the fraction.
  bool due();
  // Loop thread. Takes a copy of an answered request; `outputs` as the session got them.
  void take(const Request& request, std::span<const codec::OutputView> outputs);
  // Loop thread. Takes nothing from now on; before close().
  void retire() { retired_ = true; }
  // Loop thread.
  ShadowStats stats() const;
  // Any thread, but it may take a run's time. Drops what waits and joins.
  void close();

 private:
  // One copy: a request that is only inputs, and what it is to be compared with.
  struct Sample : Request {
    std::vector<std::optional<OutputTensor>> expected;  // in the order of our signature
    std::uint64_t held_bytes = 0;
    void clear();
  };
  // Written by one thread, read by another.
  template <class T>
  class Figure {
   public:
    T get() const { return value_.load(std::memory_order_relaxed); }
    void set(T value) { value_.store(value, std::memory_order_relaxed); }
    void add(T more) { set(get() + more); }

   private:
    std::atomic<T> value_{};
  };

  Sample& at(std::uint32_t place) { return ring_[place & (capacity_ - 1)]; }
  bool fill(Sample& sample, const Request& request, std::span<const codec::OutputView> outputs);
  void main();
  std::unique_ptr<BatchRunner> make_runner();
  // How many of the `waiting` oldest samples run together.
  std::uint32_t take_batch(std::uint32_t first, std::uint32_t waiting, Batch& batch);
  void drop(std::uint32_t first, std::uint32_t count);
  // BatchSink, on our thread.
  void finished(std::unique_ptr<Batch> batch) override;
  void wake();

  const std::shared_ptr<Servable> servable_;
  const std::shared_ptr<Runner> runner_;
  const Signature& signature_;
  const ShadowOptions options_;
  Pool& pool_;
  BatchPool batches_;  // nobody else's: a thread of low priority must hold no lock of theirs

  const std::uint32_t capacity_;  // a power of two
  const std::unique_ptr<Sample[]> ring_;
  std::atomic<std::uint32_t> written_{0};  // samples ever put in, by the loop thread
  std::atomic<std::uint32_t> done_{0};     // samples ever taken out, by ours
  std::atomic<std::uint32_t> signal_{0};   // changes when there is something new to see
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> held_bytes_{0};

  bool retired_ = false;      // loop thread, like these four
  std::uint64_t credit_ = 0;  // of the fraction
  std::uint64_t taken_ = 0;
  std::uint64_t dropped_ = 0;
  std::uint64_t incompatible_ = 0;

  Comparison comparison_;  // ours; shown in these
  Figure<std::uint64_t> compared_, failed_, rows_;
  Figure<double> max_abs_error_, max_rel_error_;
  Figure<std::uint64_t> label_flips_, unequal_rows_, nonfinite_, shape_mismatches_;

  std::jthread thread_;
};

}  // namespace servolley::engine
