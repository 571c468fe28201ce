// From float32 to bf16 storage and back, and bf16 to bf16 as a copy.
#include "parallel.h"

MOLT_SIMD_BEGIN

// {x} → x, stored as the output says
static void cast_storage(const Call& call) {
  const Tensor &x = call.in[0], &y = call.out[0];
  with_stored(x, [&](auto* from) {
    with_stored(y, [&](auto* to) {
      for_elements(*call.pool, x.size(), 0.1, [&](int64_t first, int64_t end) {
        for_row(end - first, [&](auto at) { at.store(to + first, at.load(from + first)); });
      });
    });
  });
}

MOLT_KERNEL("CastStorage", cast_storage);

MOLT_SIMD_END
