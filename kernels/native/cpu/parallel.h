// When to use the pool. Waking a thread costs several microseconds, so a kernel says what one task costs and small work
// stays on the calling thread. The split itself never depends on the number of threads.
#pragma once
#include "vec.h"

MOLT_SIMD_BEGIN

// About what a thread must be given before a second one pays for itself.
constexpr double kWorthAThread = 20e3;  // ns

template <class Task>
static inline void for_tasks(Pool& pool, int64_t count, double nanoseconds_each, Task&& task) {
  if (pool.threads() == 1 || count == 1 || static_cast<double>(count) * nanoseconds_each < kWorthAThread) {
    for (int64_t i = 0; i < count; i++) task(i);
  } else {
    pool.parallel_for(count, task);
  }
}

// Rows in fixed blocks: task(first, end). `nanoseconds_each` is the cost of one row; a block takes about ten microseconds,
// so that there are enough of them to balance and few enough to hand out.
template <class Task>
static inline void for_row_blocks(Pool& pool, int64_t rows, double nanoseconds_each, Task&& task) {
  const int64_t block = larger(1, static_cast<int64_t>(10e3 / nanoseconds_each));
  for_tasks(pool, blocks_of(rows, block), nanoseconds_each * static_cast<double>(block),
            [&](int64_t i) { task(i * block, smaller(rows, (i + 1) * block)); });
}

MOLT_SIMD_END
