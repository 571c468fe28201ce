// Statistics of a row of logits, shared by the losses: its maximum, and the sum of exp(z − maximum). Subtracting the
// maximum first keeps every exponent at or below zero.
#pragma once
#include "vec.h"

MOLT_SIMD_BEGIN

static inline float row_max(int64_t V, const float* z) {
  const float lowest = -__builtin_inff();
  Vec highest = splat(lowest);
  for_row(V, [&](auto at) { highest = max(highest, at.keep(at.load(z), lowest)); });
  return max_lane(highest);
}

static inline float sum_exp(int64_t V, const float* z, float maximum) {
  Vec total{};
  for_row(V, [&](auto at) { total += at.keep(exp_below_one(at.load(z) - maximum), 0); });
  return sum(total);
}

MOLT_SIMD_END
