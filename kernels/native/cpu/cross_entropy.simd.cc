// Cross-entropy of logits against labels. A negative label marks a position that does not count: its loss and gradient
// are zero. A label beyond the vocabulary gives NaN.
#include "parallel.h"
#include "softmax.h"

MOLT_SIMD_BEGIN

// {logits[R,V], labels[R]} → [nll[R], lse[R]], lse = log Σ exp(logits)
static void cross_entropy(const Call& call) {
  const float* logits = call.in[0].f32();
  const int32_t* labels = call.in[1].i32();
  float *nll = call.out[0].f32(), *lse = call.out[1].f32();
  const int64_t V = call.in[0].last(), R = call.in[0].size() / V;
  for_row_blocks(*call.pool, R, 0.2 * static_cast<double>(V), [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++) {
      const float* z = logits + t * V;
      const float maximum = row_max(V, z), log_sum = __builtin_logf(sum_exp(V, z, maximum));
      lse[t] = maximum + log_sum;
      nll[t] = labels[t] < 0 ? 0 : labels[t] < V ? log_sum - (z[labels[t]] - maximum) : __builtin_nanf("");
    }
  });
}

// {dnll[R], logits[R,V], lse[R], labels[R]} → dlogits[R,V] = dnll · (softmax − one-hot)
static void cross_entropy_grad(const Call& call) {
  const float *dnll = call.in[0].f32(), *logits = call.in[1].f32(), *lse = call.in[2].f32();
  const int32_t* labels = call.in[3].i32();
  float* dlogits = call.out[0].f32();
  const int64_t V = call.in[1].last(), R = call.in[1].size() / V;
  for_row_blocks(*call.pool, R, 0.2 * static_cast<double>(V), [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++) {
      const float* z = logits + t * V;
      float* dz = dlogits + t * V;
      const float scale = labels[t] < 0 ? 0 : dnll[t];
      for_row(V, [&](auto at) { at.store(dz, exp_below_one(at.load(z) - lse[t]) * scale); });
      if (labels[t] >= 0 && labels[t] < V) dz[labels[t]] -= scale;
    }
  });
}

MOLT_KERNEL("CrossEntropy", cross_entropy);
MOLT_KERNEL("CrossEntropyGrad", cross_entropy_grad);

MOLT_SIMD_END
