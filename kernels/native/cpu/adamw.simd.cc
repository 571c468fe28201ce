// One step of AdamW on one parameter, in place, as torch.optim.AdamW computes it (weight decay on the old weight, ε
// outside the bias-corrected square root). One pass: four arrays are read, three written.
#include "parallel.h"

MOLT_SIMD_BEGIN

// {param, grad, m, v} [lr, beta1, beta2, eps, weightDecay, biasCorrection1, biasCorrection2, gradScale] → nothing
static void adamw(const Call& call) {
  float *param = call.in[0].f32(), *m = call.in[2].f32(), *v = call.in[3].f32();
  const float* grad = call.in[1].f32();
  const double lr = call.attrs[0];
  const float beta1 = call.attr_f32(1), rest1 = static_cast<float>(1 - call.attrs[1]);
  const float beta2 = call.attr_f32(2), rest2 = static_cast<float>(1 - call.attrs[2]);
  const float eps = call.attr_f32(3), grad_scale = call.attr_f32(7);
  const float keep = static_cast<float>(1 - lr * call.attrs[4]);
  const float step = static_cast<float>(lr / call.attrs[5]);
  const float correction = static_cast<float>(1 / __builtin_sqrt(call.attrs[6]));
  for_elements(*call.pool, call.in[0].size(), 0.3, [&](int64_t first, int64_t end) {
    for_row(end - first, [&](auto at) {
      const Vec g = at.load(grad + first) * grad_scale;
      const Vec mean = at.load(m + first) * beta1 + g * rest1;
      const Vec square = at.load(v + first) * beta2 + g * g * rest2;
      at.store(m + first, mean);
      at.store(v + first, square);
      at.store(param + first, at.load(param + first) * keep - step * mean / (sqrt(square) * correction + eps));
    });
  });
}

MOLT_KERNEL("AdamW", adamw);

MOLT_SIMD_END
