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

// Rows in fixed blocks: task(first, end). `nanoseconds_each` is the cost of one row; a block takes about ten
// microseconds, so that there are enough of them to balance and few enough to hand out.
template <class Task>
static inline void for_row_blocks(Pool& pool, int64_t rows, double nanoseconds_each, Task&& task) {
  const int64_t block = larger(1, static_cast<int64_t>(10e3 / nanoseconds_each));
  for_tasks(pool, blocks_of(rows, block), nanoseconds_each * static_cast<double>(block),
            [&](int64_t i) { task(i * block, smaller(rows, (i + 1) * block)); });
}

// Elements of flat arrays in fixed blocks: task(first, end).
template <class Task>
static inline void for_elements(Pool& pool, int64_t count, double nanoseconds_each, Task&& task) {
  constexpr int64_t block = 8192;
  for_tasks(pool, blocks_of(count, block), nanoseconds_each * static_cast<double>(smaller(block, count)),
            [&](int64_t i) { task(i * block, smaller(count, (i + 1) * block)); });
}

// Sums over rows, such as the gradient of a weight that every row shares: task(first, end, partial) adds the rows of
// its block into partial[width], which starts at zero; out[width] is the sum of the partials in the order of the
// blocks.
constexpr int64_t kRowsPerPartial = 64;

template <class Task>
static inline void sum_over_rows(Pool& pool, int64_t rows, int64_t width, double nanoseconds_each, float* out,
                                 Task&& task) {
  const int64_t blocks = blocks_of(rows, kRowsPerPartial);
  Scratch scratch;
  float* partials = scratch.floats(blocks * width);
  for_tasks(pool, blocks, nanoseconds_each * kRowsPerPartial, [&](int64_t b) {
    float* partial = partials + b * width;
    __builtin_memset(partial, 0, width * sizeof(float));
    task(b * kRowsPerPartial, smaller(rows, (b + 1) * kRowsPerPartial), partial);
  });
  __builtin_memset(out, 0, width * sizeof(float));
  for (int64_t b = 0; b < blocks; b++)
    for_row(width, [&](auto at) { at.store(out, at.load(out) + at.load(partials + b * width)); });
}

MOLT_SIMD_END
