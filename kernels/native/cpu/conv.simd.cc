// Causal depthwise convolution over the last four tokens of the same document, then the activation φ:
//   u_t = bias + Σ_d weight[3 − d] ∘ x_{t−d} for d = 0…3 with t − d >= start[t];   y = φ(u, s)
//   φ(u, 1) = silu(u);   φ(u, s) = silu(s·u) · 2/s, which tends to the identity as s goes to 0
// Channels are contiguous, so everything is vectorised over channels, one token after the other.
#include "parallel.h"

MOLT_SIMD_BEGIN

constexpr int kTaps = 4;

struct Conv {
  int64_t T, C;
  const float* x;        // [B·T, C]
  const float* weight;   // transposed: [kTaps, C], row d is the tap that looks d tokens back
  const float* bias;     // [C]
  const int32_t* start;  // [B·T]
  float s, factor;

  // How many tokens row t (of all B·T) sees: itself and up to three before it in its document.
  int64_t taps(int64_t t) const {
    const int64_t here = t % T;
    return smaller(kTaps, here - larger(0, start[t]) + 1);
  }
};

static const float* transposed_weight(Scratch& scratch, const Tensor& weight) {
  const int64_t C = weight.dims[0];
  float* rows = scratch.floats(kTaps * C);
  for (int64_t c = 0; c < C; c++)
    for (int d = 0; d < kTaps; d++) rows[d * C + c] = weight.f32()[c * kTaps + kTaps - 1 - d];
  return rows;
}

// From the inputs x, weight, bias, start, which lie next to each other in both kernels.
static Conv conv_of(Scratch& scratch, const Tensor* in, float s) {
  const Tensor &x = in[0], &bias = in[2], &start = in[3];
  const float factor = s == 1 ? 1 : 2 / s;
  return {x.last(1), x.last(), x.f32(), transposed_weight(scratch, in[1]), bias.f32(), start.i32(), s, factor};
}

// u of row t at `at`, a place in the row of channels
template <int Taps, class At>
static inline Vec pre_activation(const Conv& conv, int64_t t, At at) {
  Vec u = at.load(conv.bias);
#pragma GCC unroll 4
  for (int d = 0; d < Taps; d++) u += at.load(conv.weight + d * conv.C) * at.load(conv.x + (t - d) * conv.C);
  return u;
}

template <class Body>
static inline void with_taps(int64_t taps, Body&& body) {
  if (taps == 4) return body(Constant<4>{});
  if (taps == 3) return body(Constant<3>{});
  if (taps == 2) return body(Constant<2>{});
  body(Constant<1>{});
}

// {x[B,T,C], weight[C,4], bias[C], start[B,T]} [s] → y[B,T,C]
static void causal_conv(const Call& call) {
  Scratch scratch;
  const Conv conv = conv_of(scratch, call.in, call.attr_f32(0));
  float* y = call.out[0].f32();
  for_row_blocks(*call.pool, call.in[3].size(), 0.25 * static_cast<double>(conv.C), [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++) {
      with_taps(conv.taps(t), [&](auto taps) {
        for_row(conv.C, [&](auto at) {
          const Vec su = conv.s * pre_activation<decltype(taps)::value>(conv, t, at);
          at.store(y + t * conv.C, conv.factor * su * sigmoid(su));
        });
      });
    }
  });
}

// {dy[B,T,C], x[B,T,C], weight[C,4], bias[C], start[B,T]} [s] → [dx[B,T,C], dweight[C,4], dbias[C]]
//   du_t = dy_t ∘ φ'(u_t);                      dx_t = Σ_d weight[3 − d] ∘ du_{t+d}
//   dweight[3 − d] = Σ_t du_t ∘ x_{t−d};        dbias = Σ_t du_t
// A block of tokens computes du of the three tokens behind it again instead of waiting for its neighbour.
static void causal_conv_grad(const Call& call) {
  Scratch scratch;
  const Conv conv = conv_of(scratch, call.in + 1, call.attr_f32(0));
  const float* dy = call.in[0].f32();
  float *dx = call.out[0].f32(), *dweight = call.out[1].f32(), *dbias = call.out[2].f32();
  const int64_t C = conv.C, T = conv.T, tokens = call.in[4].size();

  // One row of sums for each tap, then one for the bias.
  float* sums = scratch.floats((kTaps + 1) * C);
  const auto block = [&](int64_t first, int64_t end, float* partial) {
    Scratch local;
    const int64_t behind = smaller(end + kTaps - 1, tokens);
    float* du = local.floats((behind - first) * C);
    for (int64_t t = first; t < behind; t++) {
      const bool own = t < end;
      with_taps(conv.taps(t), [&](auto taps) {
        constexpr int Taps = decltype(taps)::value;
        for_row(C, [&](auto at) {
          const Vec su = conv.s * pre_activation<Taps>(conv, t, at), sig = sigmoid(su);
          const Vec d = at.load(dy + t * C) * (conv.factor * conv.s) * sig * (1.0f + su * (1.0f - sig));
          at.store(du + (t - first) * C, d);
          if (!own) return;
          float* bias_sum = partial + kTaps * C;
          at.store(bias_sum, at.load(bias_sum) + d);
#pragma GCC unroll 4
          for (int back = 0; back < Taps; back++) {
            float* weight_sum = partial + back * C;
            at.store(weight_sum, at.load(weight_sum) + d * at.load(conv.x + (t - back) * C));
          }
        });
      });
    }
    for (int64_t t = first; t < end; t++) {
      // how many of the next tokens of this row saw token t
      int64_t seen = 1;
      while (seen < kTaps && t % T + seen < T && conv.taps(t + seen) > seen) seen++;
      with_taps(seen, [&](auto taps) {
        for_row(C, [&](auto at) {
          Vec d{};
#pragma GCC unroll 4
          for (int ahead = 0; ahead < decltype(taps)::value; ahead++)
            d += at.load(conv.weight + ahead * C) * at.load(du + (t - first + ahead) * C);
          at.store(dx + t * C, d);
        });
      });
    }
  };
  sum_over_rows(*call.pool, tokens, (kTaps + 1) * C, static_cast<double>(C), sums, block);
  for (int64_t c = 0; c < C; c++) {
    for (int d = 0; d < kTaps; d++) dweight[c * kTaps + kTaps - 1 - d] = sums[d * C + c];
    dbias[c] = sums[kTaps * C + c];
  }
}

MOLT_KERNEL("CausalConv", causal_conv);
MOLT_KERNEL("CausalConvGrad", causal_conv_grad);

MOLT_SIMD_END
