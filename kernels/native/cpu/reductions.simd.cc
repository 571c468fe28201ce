// Scalars from whole tensors: the mean squared error, and the sum of squares for gradient clipping. Blocks are fixed:
// lanes of float inside a block, double across blocks.
#include "parallel.h"

MOLT_SIMD_BEGIN

// Σ over n elements of term(at, first), where `at` loads from arrays advanced by `first`.
template <class Term>
static inline double sum_blocks(Pool& pool, int64_t n, Term&& term) {
  constexpr int64_t block = 4096;
  const int64_t blocks = blocks_of(n, block);
  Scratch scratch;
  double* partials = scratch.doubles(blocks);
  for_tasks(pool, blocks, 0.15 * static_cast<double>(smaller(block, n)), [&](int64_t b) {
    const int64_t first = b * block;
    Vec total{};
    for_row(smaller(block, n - first), [&](auto at) { total += term(at, first); });
    double in_double = 0;
    for (int i = 0; i < kLanes; i++) in_double += static_cast<double>(total[i]);
    partials[b] = in_double;
  });
  double total = 0;
  for (int64_t b = 0; b < blocks; b++) total += partials[b];
  return total;
}

// {x} → scalar
static void sum_squares(const Call& call) {
  const float* x = call.in[0].f32();
  call.out[0].f32()[0] = static_cast<float>(sum_blocks(*call.pool, call.in[0].size(), [&](auto at, int64_t first) {
    const Vec v = at.load(x + first);
    return v * v;
  }));
}

// {a, b} → scalar
static void mean_squared_error(const Call& call) {
  const float *a = call.in[0].f32(), *b = call.in[1].f32();
  const int64_t n = call.in[0].size();
  const double total = sum_blocks(*call.pool, n, [&](auto at, int64_t first) {
    const Vec difference = at.load(a + first) - at.load(b + first);
    return difference * difference;
  });
  call.out[0].f32()[0] = static_cast<float>(total / static_cast<double>(n));
}

// {dy scalar, a, b} → da = dy · 2 (a − b) / n
static void mean_squared_error_grad(const Call& call) {
  const float *a = call.in[1].f32(), *b = call.in[2].f32();
  float* da = call.out[0].f32();
  const int64_t n = call.in[1].size();
  const float scale = 2.0f * call.in[0].f32()[0] / static_cast<float>(n);
  for_elements(*call.pool, n, 0.1, [&](int64_t first, int64_t end) {
    for_row(end - first, [&](auto at) { at.store(da + first, (at.load(a + first) - at.load(b + first)) * scale); });
  });
}

MOLT_KERNEL("SumSquares", sum_squares);
MOLT_KERNEL("MeanSquaredError", mean_squared_error);
MOLT_KERNEL("MeanSquaredErrorGrad", mean_squared_error_grad);

MOLT_SIMD_END
