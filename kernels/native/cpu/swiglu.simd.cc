// The gated activation of the MLP: h = silu(gate) ∘ up, with silu(z) = z·σ(z) and silu'(z) = σ(z)·(1 + z·(1 − σ(z))).
#include "parallel.h"

MOLT_SIMD_BEGIN

// {gate, up} → h
static void swiglu(const Call& call) {
  const float *gate = call.in[0].f32(), *up = call.in[1].f32();
  float* h = call.out[0].f32();
  for_elements(*call.pool, call.in[0].size(), 0.15, [&](int64_t first, int64_t end) {
    for_row(end - first, [&](auto at) {
      const Vec g = at.load(gate + first);
      at.store(h + first, g * sigmoid(g) * at.load(up + first));
    });
  });
}

// {dy, gate, up} → [dgate, dup]
static void swiglu_grad(const Call& call) {
  const float *dy = call.in[0].f32(), *gate = call.in[1].f32(), *up = call.in[2].f32();
  float *dgate = call.out[0].f32(), *dup = call.out[1].f32();
  for_elements(*call.pool, call.in[0].size(), 0.25, [&](int64_t first, int64_t end) {
    for_row(end - first, [&](auto at) {
      const Vec d = at.load(dy + first), g = at.load(gate + first), s = sigmoid(g);
      at.store(dgate + first, d * at.load(up + first) * s * (1.0f + g * (1.0f - s)));
      at.store(dup + first, d * g * s);
    });
  });
}

MOLT_KERNEL("SwiGlu", swiglu);
MOLT_KERNEL("SwiGluGrad", swiglu_grad);

MOLT_SIMD_END
