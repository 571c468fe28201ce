// A Mamba-2 mixer between its projections when it has a past: the last three inputs of the convolution and the state of
// the scan are read and replaced in place, a token at a time. The mathematics is that of mamba_core.simd.cc.
//
// The state lies as [N, P], values beside each other, which is how the recurrence runs over it. One task a head of a row:
// its channels of the convolution and its state belong to it alone.
#include "parallel.h"
#include "ssd_head.h"

MOLT_SIMD_BEGIN

constexpr int64_t kHistory = 3;

struct StepMixer {
  int64_t B, T, H, P, N;
  const Tensor& projected;  // [B,T, z | x | B | C]
  const float *e, *weight, *bias, *dt_bias, *a_log, *d, *gain;
  const int32_t* start;
  float *history, *state;  // [B,3,channels], [B,H,N,P]
  float scale;

  int64_t inner() const { return H * P; }
  int64_t channels() const { return H * (P + 2 * N); }
};

static inline float value_at(const float* from) { return *from; }
static inline float value_at(const Bf16* from) {
  const uint32_t bits = static_cast<uint32_t>(from->bits) << 16;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

// φ of the convolution for `width` channels from `first` on, of token t; then their history moves on by one.
template <class T>
static inline void convolve_step(const StepMixer& m, const T* in, float* history, bool begins, int64_t first,
                                 int64_t width, float* out) {
  const float factor = m.scale == 1 ? 1 : 2 / m.scale;
  float* past[kHistory];  // the oldest first
  for (int i = 0; i < kHistory; i++) past[i] = history + i * m.channels() + first;
  for (int64_t c = 0; c < width; c++) {
    const float* taps = m.weight + (first + c) * (kHistory + 1);
    const float x = value_at(in + c);
    float u = m.bias[first + c] + taps[kHistory] * x;
    for (int i = 0; i < kHistory; i++) {
      if (begins) past[i][c] = 0;
      u += taps[i] * past[i][c];
    }
    past[0][c] = past[1][c];
    past[1][c] = past[2][c];
    past[2][c] = x;
    out[c] = u;
  }
  for_row(width, [&](auto at) {
    const Vec v = at.load(out) * m.scale;
    at.store(out, factor * v * sigmoid(v));
  });
}

template <class V, class T>
static void step_head(const StepMixer& m, int64_t row, int64_t h, const T* projected, T* out) {
  constexpr int64_t lanes = lanes_of<V>;
  const int64_t vectors = blocks_of(m.P, lanes), values = vectors * lanes;
  const float rate = rate_of(m.a_log[h]);
  float *history = m.history + row * kHistory * m.channels(), *kept = m.state + (row * m.H + h) * m.N * m.P;
  Scratch scratch;
  float *x = scratch.floats(values), *b = scratch.floats(m.N), *c = scratch.floats(m.N), *y = scratch.floats(values);
  float* memory = scratch.floats(m.N * values);
  V* state = reinterpret_cast<V*>(memory);
  __builtin_memset(x, 0, values * sizeof(float));
  __builtin_memset(memory, 0, m.N * values * sizeof(float));
  for (int64_t n = 0; n < m.N; n++) __builtin_memcpy(memory + n * values, kept + n * m.P, m.P * sizeof(float));

  for (int64_t t = 0; t < m.T; t++) {
    const int64_t token = row * m.T + t;
    const bool begins = m.start[token] == t;
    if (begins) __builtin_memset(memory, 0, m.N * values * sizeof(float));
    const T* z = projected + token * (m.inner() + m.channels()) + h * m.P;
    const T* channels = projected + token * (m.inner() + m.channels()) + m.inner();
    const int64_t b_first = m.inner() + h * m.N, c_first = m.inner() + m.H * m.N + h * m.N;
    convolve_step(m, channels + h * m.P, history, begins, h * m.P, m.P, x);
    convolve_step(m, channels + b_first, history, begins, b_first, m.N, b);
    convolve_step(m, channels + c_first, history, begins, c_first, m.N, c);
    const float dt = softplus(splat<FourVec>(m.e[token * m.H + h] + m.dt_bias[h]))[0];
    const float decay = exp(splat<FourVec>(dt * -rate))[0];
    for (int64_t i = 0; i < vectors; i++) {
      const V value = load<V>(x + i * lanes);
      store(y + i * lanes, advance(m.N, vectors, state + i, state + i, decay, value * dt, b, c) + value * m.d[h]);
    }
    T* to = out + token * m.inner() + h * m.P;
    for_row(m.P, [&](auto at) {
      const Vec gate = at.load(z);
      at.store(to, at.load(m.gain + h * m.P) * at.load(y) * gate * sigmoid(gate));
    });
  }
  for (int64_t n = 0; n < m.N; n++) __builtin_memcpy(kept + n * m.P, memory + n * values, m.P * sizeof(float));
}

// {projected[B,T,HP+C], e[B,T,H], convWeight[C,4], convBias[C], dtBias[H], aLog[H], d[H], gain[HP], start[B,T],
//  history[B,3,C], state[B,H,N,P]} [P, N, s] → heads[B,T,HP], stored like projected; history and state in place
static void mamba_step(const Call& call) {
  const Tensor* in = call.in;
  const StepMixer m{in[0].dims[0], in[0].dims[1], in[1].last(), call.attr_int(0), call.attr_int(1), in[0],
                    in[1].f32(),   in[2].f32(),   in[3].f32(),  in[4].f32(),      in[5].f32(),      in[6].f32(),
                    in[7].f32(),   in[8].i32(),   in[9].f32(),  in[10].f32(),     call.attr_f32(2)};
  const double nanoseconds = recurrence_nanoseconds(m.P, m.N) + static_cast<double>(4 * (m.P + 2 * m.N));
  for_tasks(*call.pool, m.B * m.H, static_cast<double>(m.T) * nanoseconds, [&](int64_t i) {
    with_vector_for(m.P, [&](auto v) {
      with_stored(m.projected, [&](auto* projected) {
        using T = __typeof__(*projected);
        step_head<decltype(v)>(m, i / m.H, i % m.H, static_cast<const T*>(projected), call.out[0].as<T>());
      });
    });
  });
}

MOLT_KERNEL("MambaStep", mamba_step);

MOLT_SIMD_END
