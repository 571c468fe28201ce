// softplus(x + bias), the step sizes of a Mamba mixer; its derivative is the sigmoid.
#include "parallel.h"

MOLT_SIMD_BEGIN

// {x[R,C], bias[C]} → y[R,C]
static void softplus_bias(const Call& call) {
  const float *x = call.in[0].f32(), *bias = call.in[1].f32();
  float* y = call.out[0].f32();
  const int64_t C = call.in[0].last(), R = call.in[0].size() / C;
  for_row_blocks(*call.pool, R, 0.4 * static_cast<double>(C) + 1, [&](int64_t first, int64_t end) {
    for (int64_t t = first * C; t < end * C; t += C)
      for_row(C, [&](auto at) { at.store(y + t, softplus(at.load(x + t) + at.load(bias))); });
  });
}

// {dy[R,C], x[R,C], bias[C]} → [dx[R,C], dbias[C]]
static void softplus_bias_grad(const Call& call) {
  const float *dy = call.in[0].f32(), *x = call.in[1].f32(), *bias = call.in[2].f32();
  float* dx = call.out[0].f32();
  const int64_t C = call.in[1].last(), R = call.in[1].size() / C;
  const auto rows = [&](int64_t first, int64_t end, float* dbias) {
    for (int64_t t = first * C; t < end * C; t += C) {
      for_row(C, [&](auto at) {
        const Vec d = at.load(dy + t) * sigmoid(at.load(x + t) + at.load(bias));
        at.store(dx + t, d);
        at.store(dbias, at.load(dbias) + d);
      });
    }
  };
  sum_over_rows(*call.pool, R, C, 0.3 * static_cast<double>(C) + 1, call.out[1].f32(), rows);
}

MOLT_KERNEL("SoftplusBias", softplus_bias);
MOLT_KERNEL("SoftplusBiasGrad", softplus_bias_grad);

MOLT_SIMD_END
