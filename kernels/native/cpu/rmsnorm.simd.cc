// RMSNorm: y = x · r ∘ w with r = 1 / √(mean(x²) + ε), one r a row. The gradients recompute r from x, which costs one
// more pass over a row that is in the first-level cache anyway. Everything may be stored as bf16; sums are float32.
#include "parallel.h"

MOLT_SIMD_BEGIN

template <class X>
static inline float reciprocal_rms(int64_t D, const X* x, float eps) {
  Vec squares{};
  for_row(D, [&](auto at) {
    const Vec v = at.load(x);
    squares += v * v;
  });
  return 1.0f / __builtin_sqrtf(sum(squares) / static_cast<float>(D) + eps);
}

constexpr double kNanoseconds = 0.15;  // an element

// A weight of D elements as floats: read by every row, so a bf16 one is widened once.
static const float* weight_as_floats(const Tensor& weight, Scratch& scratch) {
  if (!weight.is_bf16()) return weight.f32();
  float* floats = scratch.floats(weight.size());
  for_row(weight.size(), [&](auto at) { at.store(floats, at.load(weight.bf16())); });
  return floats;
}

// {x[R,D], weight[D]} [eps] → y[R,D]
static void rms_norm(const Call& call) {
  Scratch scratch;
  const float* weight = weight_as_floats(call.in[1], scratch);
  const float eps = call.attr_f32(0);
  const int64_t D = call.in[0].last(), R = call.in[0].size() / D;
  const auto run = [&](auto* x, auto* y) {
    for_row_blocks(*call.pool, R, kNanoseconds * static_cast<double>(D), [&](int64_t first, int64_t end) {
      for (int64_t t = first; t < end; t++) {
        const auto* row = x + t * D;
        const float r = reciprocal_rms(D, row, eps);
        for_row(D, [&](auto at) { at.store(y + t * D, at.load(row) * r * at.load(weight)); });
      }
    });
  };
  with_stored(call.in[0], [&](auto* x) { with_stored(call.out[0], [&](auto* y) { run(x, y); }); });
}

// {dy[R,D], x[R,D], weight[D]} [eps] → dx[R,D] = r·m − x·r³·mean(m∘x) with m = dy∘weight; dx is stored as x is
static void rms_norm_grad(const Call& call) {
  Scratch scratch;
  const float* weight = weight_as_floats(call.in[2], scratch);
  const float eps = call.attr_f32(0);
  const int64_t D = call.in[1].last(), R = call.in[1].size() / D;
  const auto run = [&](auto* dy, auto* x, auto* dx) {
    for_row_blocks(*call.pool, R, 2 * kNanoseconds * static_cast<double>(D), [&](int64_t first, int64_t end) {
      for (int64_t t = first; t < end; t++) {
        const auto* row = x + t * D;
        const auto* drow = dy + t * D;
        const float r = reciprocal_rms(D, row, eps);
        Vec dots{};
        for_row(D, [&](auto at) { dots += at.load(drow) * at.load(weight) * at.load(row); });
        const float along_x = r * r * r * (sum(dots) / static_cast<float>(D));
        for_row(D, [&](auto at) { at.store(dx + t * D, at.load(drow) * at.load(weight) * r - at.load(row) * along_x); });
      }
    });
  };
  with_stored(call.in[0], [&](auto* dy) {
    with_stored(call.in[1], [&](auto* x) { run(dy, x, static_cast<decltype(x)>(call.out[0].data)); });
  });
}

// {dy[R,D], x[R,D]} [eps] → dweight[D] = Σ over rows of dy∘x·r
static void rms_norm_weight_grad(const Call& call) {
  const float eps = call.attr_f32(0);
  const int64_t D = call.in[1].last(), R = call.in[1].size() / D;
  const auto run = [&](auto* dy, auto* x) {
    const auto rows = [&](int64_t first, int64_t end, float* dweight) {
      for (int64_t t = first; t < end; t++) {
        const auto* row = x + t * D;
        const auto* drow = dy + t * D;
        const float r = reciprocal_rms(D, row, eps);
        for_row(D, [&](auto at) { at.store(dweight, at.load(dweight) + at.load(drow) * at.load(row) * r); });
      }
    };
    sum_over_rows(*call.pool, R, D, 2 * kNanoseconds * static_cast<double>(D), call.out[0].f32(), rows);
  };
  with_stored(call.in[0], [&](auto* dy) { with_stored(call.in[1], [&](auto* x) { run(dy, x); }); });
}

MOLT_KERNEL("RmsNorm", rms_norm);
MOLT_KERNEL("RmsNormGrad", rms_norm_grad);
MOLT_KERNEL("RmsNormWeightGrad", rms_norm_weight_grad);

MOLT_SIMD_END
