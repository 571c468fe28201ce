// Cuts the columns of a matrix into several matrices, and puts them together again. Parts and whole may be stored as
// bf16.
#include "parallel.h"

MOLT_SIMD_BEGIN

// Columns [first_from, first_from + width) of one matrix of R rows to columns [first_to, …) of another.
static inline void copy_columns(Pool& pool, int64_t R, int64_t width, const Tensor& source, int64_t first_from,
                                const Tensor& target, int64_t first_to) {
  const int64_t ld_from = source.last(), ld_to = target.last();
  with_stored(source, [&](auto* from) {
    with_stored(target, [&](auto* to) {
      for_row_blocks(pool, R, 0.1 * static_cast<double>(width) + 2, [&](int64_t first, int64_t end) {
        for (int64_t t = first; t < end; t++)
          for_row(width, [&](auto at) {
            at.store(to + t * ld_to + first_to, at.load(from + t * ld_from + first_from));
          });
      });
    });
  });
}

// {x[R,C]} [width…] → one [R,width] for each width, stored as x is; the widths add up to C
static void split_columns(const Call& call) {
  const int64_t C = call.in[0].last(), R = call.in[0].size() / C;
  int64_t first = 0;
  for (int i = 0; i < call.outputs; i++) {
    const int64_t width = call.out[i].last();
    copy_columns(*call.pool, R, width, call.in[0], first, call.out[i], 0);
    first += width;
  }
}

// {0: [R,width], 1: [R,width], …} → [R, sum of widths], bf16 if all parts are
static void concat_columns(const Call& call) {
  const int64_t C = call.out[0].last(), R = call.out[0].size() / C;
  int64_t first = 0;
  for (int i = 0; i < call.inputs; i++) {
    const int64_t width = call.in[i].last();
    copy_columns(*call.pool, R, width, call.in[i], 0, call.out[0], first);
    first += width;
  }
}

MOLT_KERNEL("SplitColumns", split_columns);
MOLT_KERNEL("ConcatColumns", concat_columns);

MOLT_SIMD_END
