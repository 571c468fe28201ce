// A Mamba-2 mixer between its two projections, one task a head of a row:
//   x, B, C = φ(conv4(·) + bias);   dt = softplus(e + dtBias)
//   S_t = exp(−dt_t exp(aLog)) S_{t−1} + dt_t x_t ⊗ B_t;   y_t = S_t C_t + d x_t;   out = gain ∘ y ∘ SiLU(z)
// Nothing between the projections reaches memory: tokens pass in blocks whose rows stay in the nearest caches. The scan
// is the plain recurrence (ssd.simd.cc says why).
#include "mamba_core.h"
#include "parallel.h"

MOLT_SIMD_BEGIN

constexpr int64_t kBlock = 64;

template <class T>
static void gate_rows(const Mixer& m, const T* projected, int64_t row, int64_t h, int64_t first, int64_t end,
                      const float* y, int64_t ld, T* out) {
  for (int64_t t = first; t < end; t++, y += ld) {
    const T* z = projected + (row * m.T + t) * m.columns() + h * m.P;
    T* to = out + (row * m.T + t) * m.inner() + h * m.P;
    for_row(m.P, [&](auto at) {
      const Vec gate = at.load(z);
      at.store(to, at.load(m.gain + h * m.P) * at.load(y) * gate * sigmoid(gate));
    });
  }
}

template <class V>
static void core_of_head(const Mixer& m, int64_t row, int64_t h, const Tensor& out) {
  constexpr int64_t lanes = lanes_of<V>;
  const Head head = m.head(h);
  const int64_t vectors = blocks_of(m.P, lanes), values = vectors * lanes, states = round_up(m.N, kPad);
  Scratch scratch;
  const auto rows = [&](int64_t count, int64_t width) {
    float* array = scratch.floats(count * width);
    __builtin_memset(array, 0, count * width * sizeof(float));
    return array;
  };
  float *x = rows(kBlock, values), *y = rows(kBlock, values), *b = rows(kBlock, states), *c = rows(kBlock, states);
  float *dt = rows(kBlock, 1), *decay = rows(kBlock, 1);
  V* state = reinterpret_cast<V*>(rows(m.N, values));

  const int32_t* start = m.start + row * m.T;
  for (int64_t first = 0; first < m.T; first += kBlock) {
    const int64_t end = smaller(m.T, first + kBlock);
    convolve(m, row, m.x_of(h), first, end, x, nullptr, values);
    convolve(m, row, m.b_of(h), first, end, b, nullptr, states);
    convolve(m, row, m.c_of(h), first, end, c, nullptr, states);
    raw_steps(m, row, h, first, end, dt);
    for_row(end - first, [&](auto at) {
      const Vec steps = softplus(at.load(dt));
      at.store(dt, steps);
      at.store(decay, exp(steps * -head.rate));
    });
    for (int64_t t = first; t < end; t++) {
      const int64_t r = t - first;
      if (start[t] == t) __builtin_memset(static_cast<void*>(state), 0, m.N * values * sizeof(float));
      for (int64_t i = 0; i < vectors; i++) {
        const V value = load<V>(x + r * values + i * lanes);
        const V sum = advance(m.N, vectors, state + i, state + i, decay[r], value * dt[r], b + r * states, c + r * states);
        store(y + r * values + i * lanes, sum + value * head.d);
      }
    }
    with_stored(out, [&](auto* to) {
      using T = __typeof__(*to);
      gate_rows(m, m.projected.as<T>(), row, h, first, end, y, values, to);
    });
  }
}

// {projected[B,T,HP+C], e[B,T,H], convWeight[C,4], convBias[C], dtBias[H], aLog[H], d[H], gain[HP], start[B,T]}
// [P, N, s] → heads[B,T,HP], stored like projected
static void mamba_core(const Call& call) {
  Scratch scratch;
  const Mixer m = mixer_of(call.in, call, scratch);
  const double nanoseconds = recurrence_nanoseconds(m.P, m.N) + convolve_nanoseconds(m);
  for_tasks(*call.pool, m.B * m.H, static_cast<double>(m.T) * nanoseconds, [&](int64_t i) {
    with_vector_for(m.P, [&](auto v) { core_of_head<decltype(v)>(m, i / m.H, i % m.H, call.out[0]); });
  });
}

MOLT_KERNEL("MambaCore", mamba_core);

MOLT_SIMD_END
