// Cuts the columns of a matrix into several matrices, and puts them together again.
#include "parallel.h"

MOLT_SIMD_BEGIN

static inline void copy_columns(Pool& pool, int64_t R, int64_t width, const float* from, int64_t ld_from, float* to,
                                int64_t ld_to) {
  for_row_blocks(pool, R, 0.1 * static_cast<double>(width) + 2, [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++)
      for_row(width, [&](auto at) { at.store(to + t * ld_to, at.load(from + t * ld_from)); });
  });
}

// {x[R,C]} [width…] → one [R,width] for each width; the widths add up to C
static void split_columns(const Call& call) {
  const int64_t C = call.in[0].last(), R = call.in[0].size() / C;
  int64_t first = 0;
  for (int i = 0; i < call.outputs; i++) {
    const int64_t width = call.out[i].last();
    copy_columns(*call.pool, R, width, call.in[0].f32() + first, C, call.out[i].f32(), width);
    first += width;
  }
}

// {0: [R,width], 1: [R,width], …} → [R, sum of widths]
static void concat_columns(const Call& call) {
  const int64_t C = call.out[0].last(), R = call.out[0].size() / C;
  int64_t first = 0;
  for (int i = 0; i < call.inputs; i++) {
    const int64_t width = call.in[i].last();
    copy_columns(*call.pool, R, width, call.in[i].f32(), width, call.out[0].f32() + first, C);
    first += width;
  }
}

MOLT_KERNEL("SplitColumns", split_columns);
MOLT_KERNEL("ConcatColumns", concat_columns);

MOLT_SIMD_END
