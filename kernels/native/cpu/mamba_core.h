// What forward and gradient of a Mamba-2 mixer between its two projections share. A row of `projected` is
//   z [H·P] | x [H·P] | B [H·N] | C [H·N]
// of which everything behind z goes through the convolution; head h owns a run of neighbouring columns in each part.
// A kernel takes one head at a time: its columns are convolved into scratch a block of tokens at a time, and stay there
// until the scan is done with them.
#pragma once
#include "ssd_head.h"

MOLT_SIMD_BEGIN

constexpr int kTaps = 4;

// Neighbouring columns of a matrix, or channels of the convolution.
struct Run {
  int64_t first, width;
};

struct Mixer {
  int64_t B, T, H, P, N;
  const Tensor& projected;  // [B,T,columns], f32 or bf16
  const float* e;           // [B,T,H]
  const float* weight;      // transposed: [kTaps, channels], row d is the tap that looks d tokens back
  const float *bias, *dt_bias, *a_log, *d, *gain;
  const int32_t* start;  // [B,T]
  float scale, factor;   // φ(u) = factor · SiLU(scale · u)

  int64_t inner() const { return H * P; }
  int64_t channels() const { return H * (P + 2 * N); }
  int64_t columns() const { return inner() + channels(); }
  Head head(int64_t h) const { return {P, N, rate_of(a_log[h]), d[h]}; }
  Run z_of(int64_t h) const { return {h * P, P}; }  // the same columns in do, out and gain
  Run x_of(int64_t h) const { return {h * P, P}; }
  Run b_of(int64_t h) const { return {inner() + h * N, N}; }
  Run c_of(int64_t h) const { return {inner() + H * N + h * N, N}; }
};

// From {projected, e, convWeight[C,4], convBias[C], dtBias[H], aLog[H], d[H], gain[H·P], start} [P, N, s].
static inline Mixer mixer_of(const Tensor* in, const Call& call, Scratch& scratch) {
  const Tensor &projected = in[0], &weight = in[2];
  const int64_t channels = weight.dims[0];
  float* taps = scratch.floats(kTaps * channels);
  for (int64_t c = 0; c < channels; c++)
    for (int d = 0; d < kTaps; d++) taps[d * channels + c] = weight.f32()[c * kTaps + kTaps - 1 - d];
  const float s = call.attr_f32(2);
  return {projected.dims[0], projected.dims[1], in[1].last(), call.attr_int(0), call.attr_int(1), projected,
          in[1].f32(),       taps,              in[3].f32(),  in[4].f32(),      in[5].f32(),      in[6].f32(),
          in[7].f32(),       in[8].i32(),       s,            s == 1 ? 1 : 2 / s};
}

// Rows [first, first + count) of some columns of a matrix, as floats side by side. Everything a kernel reads is copied
// before it is used: rows lie far apart in memory, and in a loop that does nothing else many are on their way at once.
static inline void copy_columns(const Tensor& from, int64_t first, int64_t count, Run columns, float* to, int64_t ld) {
  with_stored(from, [&](const auto* matrix) {
    const int64_t ld_from = from.last();
    const auto* row = matrix + first * ld_from + columns.first;
    for (int64_t i = 0; i < count; i++, row += ld_from, to += ld)
      for_row(columns.width, [&](auto at) { at.store(to, at.load(row)); });
  });
}

// The columns of one run in a block of tokens, behind room for three rows of history.
struct RunRows {
  Run run;
  int64_t ld;
  float* history;
  float* rows() const { return history + (kTaps - 1) * ld; }

  RunRows(Run run_, int64_t longest, int64_t ld_, Scratch& scratch)
      : run(run_), ld(ld_), history(scratch.floats((kTaps - 1 + longest) * ld)) {}

  void load(const Mixer& m, int64_t row, int64_t first, int64_t end) const {
    const int64_t before = smaller(first, kTaps - 1);
    copy_columns(m.projected, row * m.T + first - before, end - first + before, {m.inner() + run.first, run.width},
                 rows() - before * ld, ld);
  }
};

// φ of the convolution of one run for the tokens [first, end) of a row, into out[t − first, ld]; φ' into `slope` where
// it is not null.
static inline void convolve(const Mixer& m, int64_t row, const RunRows& in, int64_t first, int64_t end, float* out,
                            float* slope) {
  const int64_t ld = in.ld;
  const float *weight = m.weight + in.run.first, *bias = m.bias + in.run.first;
  const int32_t* start = m.start + row * m.T;
  for_row(in.run.width, [&](auto at) {
    const Vec offset = at.load(bias);
    Vec taps[kTaps], earlier[kTaps - 1];  // earlier[d]: the input d + 1 tokens back
    for (int d = 0; d < kTaps; d++) taps[d] = at.load(weight + d * m.channels());
    for (int d = 0; d < kTaps - 1; d++)
      earlier[d] = first - 1 - d >= larger(0, start[first]) ? at.load(in.rows() - (1 + d) * ld) : Vec{};
    for (int64_t t = first; t < end; t++) {
      if (start[t] == t) earlier[0] = earlier[1] = earlier[2] = Vec{};
      const Vec x = at.load(in.rows() + (t - first) * ld);
      const Vec u = offset + taps[0] * x + taps[1] * earlier[0] + taps[2] * earlier[1] + taps[3] * earlier[2];
      const Vec v = m.scale * u, sig = sigmoid_near_zero(v);
      at.store(out + (t - first) * ld, m.factor * v * sig);
      if (slope != nullptr)
        at.store(slope + (t - first) * ld, m.factor * m.scale * sig * (1.0f + v * (1.0f - sig)));
      earlier[2] = earlier[1];
      earlier[1] = earlier[0];
      earlier[0] = x;
    }
  });
}

// e + dtBias of one head for the tokens [first, end): the arguments of softplus, side by side instead of H apart.
static inline void raw_steps(const Mixer& m, int64_t row, int64_t h, int64_t first, int64_t end, float* to) {
  for (int64_t t = first; t < end; t++) to[t - first] = m.e[(row * m.T + t) * m.H + h] + m.dt_bias[h];
}

// Calls body(Step) with the arithmetic of the scan's products: of bf16 where the columns are stored so and the processor
// multiplies it, else of floats.
template <class Body>
static inline void with_step([[maybe_unused]] const Mixer& m, Body&& body) {
#if defined(__AVX512BF16__)
  if (m.projected.is_bf16()) return body(Bf16Pairs{});
#endif
  body(Floats{});
}

// About what a token of a head costs beyond the scan.
static inline double convolve_nanoseconds(const Mixer& m) {
  return 0.2 * static_cast<double>(2 * m.P + 2 * m.N) + 5;
}

MOLT_SIMD_END
