// A fork-join pool for oversubscribed machines: tasks are handed out dynamically, the caller works too and waits only
// for workers that took a task; workers spin briefly and then sleep. Never a spinning barrier: with a neighbour on one
// core it turns 0.2 ms of work into 8 ms.
//
// One thread at a time may call parallel_for (the stream thread does); fn must not call it again.
#pragma once
#include <cstdint>
#include <type_traits>

namespace molt {

class Pool {
 public:
  explicit Pool(int threads);
  ~Pool();
  Pool(const Pool&) = delete;
  Pool& operator=(const Pool&) = delete;

  int threads() const { return threads_; }

  // Runs fn(i) for every i in [0, n), in any order and on any thread. fn must not throw.
  template <class F>
  __attribute__((always_inline)) void parallel_for(int64_t n, F&& fn) {
    using Function = std::remove_reference_t<F>;
    void* const context = const_cast<void*>(static_cast<const void*>(&fn));
    run(n, [](void* f, int64_t i) { (*static_cast<Function*>(f))(i); }, context);
  }

 private:
  void run(int64_t n, void (*fn)(void*, int64_t), void* context);
  struct State;
  State* state_;
  int threads_;
};

}  // namespace molt
