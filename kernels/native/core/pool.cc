// A job is described by three plain fields (function, context, count) and one atomic word that holds the job's number
// and the next index to hand out. A thread takes an index by compare-and-swap on that word, so a worker that comes late
// can never take an index of a newer job with an older job's function: the number no longer matches.
#include "pool.h"

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

namespace molt {
namespace {

// About 5 µs: the gap between two kernels of one layer. A longer spin takes the core from a neighbour.
constexpr int kSpins = 200;

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// 24 bits of job number, 40 bits of index.
constexpr int kIndexBits = 40;
constexpr uint64_t kIndexMask = (uint64_t{1} << kIndexBits) - 1;

}  // namespace

struct Pool::State {
  std::atomic<uint64_t> next{0};
  std::atomic<void (*)(void*, int64_t)> fn{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<int64_t> count{0};
  std::atomic<int64_t> done{0};

  std::mutex mutex;
  std::condition_variable work;
  std::condition_variable finished;
  uint64_t job = 0;  // guarded by mutex; `published` is a copy to spin on
  std::atomic<uint64_t> published{0};
  std::atomic<bool> caller_sleeps{false};
  int sleepers = 0;
  bool closing = false;
  std::vector<std::thread> workers;

  // Takes and runs indices of job `number` until there are none left.
  void take(uint64_t number) {
    const uint64_t tag = number << kIndexBits;
    uint64_t seen = next.load(std::memory_order_acquire);
    while ((seen & ~kIndexMask) == tag) {
      const int64_t n = count.load(std::memory_order_acquire);
      auto* const f = fn.load(std::memory_order_acquire);
      void* const c = context.load(std::memory_order_acquire);
      const int64_t index = static_cast<int64_t>(seen & kIndexMask);
      if (index >= n) return;
      // Success proves that the fields above belonged to this job: the word changes before they do (release stores in
      // run(), acquire loads here).
      if (!next.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
      f(c, index);
      if (done.fetch_add(1) + 1 == n && caller_sleeps.load()) {
        std::lock_guard<std::mutex> lock(mutex);
        finished.notify_one();
      }
      seen = next.load(std::memory_order_acquire);
    }
  }

  void worker() {
    uint64_t last = 0;
    for (;;) {
      for (int i = 0; i < kSpins && published.load(std::memory_order_acquire) == last; i++) relax();
      if (published.load(std::memory_order_acquire) == last) {
        std::unique_lock<std::mutex> lock(mutex);
        sleepers++;
        work.wait(lock, [&] { return job != last || closing; });
        sleepers--;
        if (closing) return;
      }
      last = published.load(std::memory_order_acquire);
      take(last & (~uint64_t{0} >> kIndexBits));
    }
  }
};

Pool::Pool(int threads) : state_(new State), threads_(threads < 1 ? 1 : threads) {
  for (int i = 1; i < threads_; i++) state_->workers.emplace_back([state = state_] { state->worker(); });
}

Pool::~Pool() {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->closing = true;
    // A spinning worker leaves its loop only to look at the mutex, where it sees `closing`.
    state_->work.notify_all();
  }
  for (std::thread& thread : state_->workers) thread.join();
  delete state_;
}

void Pool::run(int64_t n, void (*fn)(void*, int64_t), void* context) {
  if (n <= 0) return;
  if (n == 1 || threads_ == 1) {
    for (int64_t i = 0; i < n; i++) fn(context, i);
    return;
  }
  State& s = *state_;
  bool wake;
  uint64_t number;
  {
    std::lock_guard<std::mutex> lock(s.mutex);
    s.job++;
    number = s.job & (~uint64_t{0} >> kIndexBits);
    // Retire the old job first: from here on nobody can take an index until the new word is stored.
    s.next.store((number << kIndexBits) | kIndexMask, std::memory_order_release);
    s.fn.store(fn, std::memory_order_release);
    s.context.store(context, std::memory_order_release);
    s.count.store(n, std::memory_order_release);
    s.done.store(0, std::memory_order_release);
    s.next.store(number << kIndexBits, std::memory_order_release);
    s.published.store(s.job, std::memory_order_release);
    wake = s.sleepers > 0;
  }
  if (wake) {
    const int64_t helpers = n - 1 < threads_ - 1 ? n - 1 : threads_ - 1;
    for (int64_t i = 0; i < helpers; i++) s.work.notify_one();
  }

  s.take(number);

  // Every index has been taken; wait for the workers that still hold one.
  for (int i = 0; i < kSpins; i++) {
    if (s.done.load(std::memory_order_acquire) == n) return;
    relax();
  }
  s.caller_sleeps.store(true);
  {
    std::unique_lock<std::mutex> lock(s.mutex);
    s.finished.wait(lock, [&] { return s.done.load() == n; });
  }
  s.caller_sleeps.store(false);
}

}  // namespace molt
