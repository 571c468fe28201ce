// The output gate of a Mamba mixer: o = g · y · silu(z), g one gain a channel.
#include "parallel.h"

MOLT_SIMD_BEGIN

// {y[R,C], z[R,C], g[C]} → o[R,C]
static void gated_output(const Call& call) {
  const float *y = call.in[0].f32(), *z = call.in[1].f32(), *g = call.in[2].f32();
  float* o = call.out[0].f32();
  const int64_t C = call.in[0].last(), R = call.in[0].size() / C;
  for_row_blocks(*call.pool, R, 0.15 * static_cast<double>(C), [&](int64_t first, int64_t end) {
    for (int64_t t = first * C; t < end * C; t += C) {
      for_row(C, [&](auto at) {
        const Vec gate = at.load(z + t);
        at.store(o + t, at.load(g) * at.load(y + t) * gate * sigmoid(gate));
      });
    }
  });
}

// {do[R,C], y[R,C], z[R,C], g[C]} → [dy[R,C], dz[R,C], dg[C]]
static void gated_output_grad(const Call& call) {
  const float *dout = call.in[0].f32(), *y = call.in[1].f32(), *z = call.in[2].f32(), *g = call.in[3].f32();
  float *dy = call.out[0].f32(), *dz = call.out[1].f32();
  const int64_t C = call.in[0].last(), R = call.in[0].size() / C;
  const auto rows = [&](int64_t first, int64_t end, float* dg) {
    for (int64_t t = first * C; t < end * C; t += C) {
      for_row(C, [&](auto at) {
        const Vec d = at.load(dout + t), gate = at.load(z + t), s = sigmoid(gate), silu = gate * s;
        const Vec input = at.load(y + t), gain = at.load(g);
        at.store(dy + t, d * gain * silu);
        at.store(dz + t, d * gain * input * s * (1.0f + gate * (1.0f - s)));
        at.store(dg, at.load(dg) + d * input * silu);
      });
    }
  };
  sum_over_rows(*call.pool, R, C, 0.3 * static_cast<double>(C), call.out[2].f32(), rows);
}

MOLT_KERNEL("GatedOutput", gated_output);
MOLT_KERNEL("GatedOutputGrad", gated_output_grad);

MOLT_SIMD_END
