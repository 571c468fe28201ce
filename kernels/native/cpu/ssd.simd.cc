// The Mamba-2 state-space scan, one scalar decay a head:
//   S_t = a_t S_{t−1} + dt_t x_t ⊗ B_t,   a_t = exp(−dt_t exp(aLog));   y_t = S_t C_t + d x_t
// Where a document begins (start[t] = t), S_{t−1} counts as zero.
//
// On a CPU the plain recurrence is no more work than the chunked form (6·P·N operations a token against about
// Q·(P + N) + 4·P·N with chunks of Q) once it is vectorised over the P values of x. So it is that: S[N][P] stays in the
// first-level cache, one task a head of a row. The backward is ssd_grad.simd.cc.
#include "parallel.h"
#include "ssd.h"

MOLT_SIMD_BEGIN

// The P values of x or y of one token, as vectors V of which the last may be partial.
template <class V>
struct Values {
  int64_t P;
  static constexpr int64_t lanes = lanes_of<V>;
  int64_t vectors() const { return (P + lanes - 1) / lanes; }
  V load(const float* from, int64_t i) const {
    from += i * lanes;
    return (i + 1) * lanes <= P ? molt::MOLT_LEVEL::load<V>(from) : load_part<V>(from, P - i * lanes);
  }
  void store(float* to, int64_t i, V v) const {
    to += i * lanes;
    if ((i + 1) * lanes <= P) {
      molt::MOLT_LEVEL::store(to, v);
    } else {
      store_part(to, v, P - i * lanes);
    }
  }
};

template <class V>
static void scan_head(const Scan& s, int64_t row, int64_t h, const float* state_in, float* y, float* state_out) {
  const Values<V> values{s.P};
  const int64_t vectors = values.vectors(), size = s.N * vectors;
  constexpr int64_t lanes = lanes_of<V>;
  const Head head = s.head(h);
  Scratch scratch;
  // dt and the decay of every token, side by side instead of H apart
  float *dt = scratch.floats(s.T), *decay = scratch.floats(s.T);
  for (int64_t t = 0; t < s.T; t++) dt[t] = s.dt[s.at(row, t, h, 1)];
  for_row(s.T, [&](auto at) { at.store(decay, exp(at.load(dt) * -head.rate)); });

  float* memory = scratch.floats(size * lanes);  // [N, P padded]
  V* state = reinterpret_cast<V*>(memory);
  __builtin_memset(memory, 0, size * sizeof(V));
  if (state_in != nullptr) transpose(s.P, s.N, state_in, s.N, memory, vectors * lanes);

  for (int64_t t = 0; t < s.T; t++) {
    if (s.start[row * s.T + t] == t) __builtin_memset(memory, 0, size * sizeof(V));
    const float *x = s.x + s.at(row, t, h, s.P), *b = s.b + s.at(row, t, h, s.N), *c = s.c + s.at(row, t, h, s.N);
    for (int64_t i = 0; i < vectors; i++) {
      const V value = values.load(x, i);
      const V out = advance(s.N, vectors, state + i, state + i, decay[t], value * dt[t], b, c);
      values.store(y + s.at(row, t, h, s.P), i, out + value * head.d);
    }
  }
  transpose(s.N, s.P, memory, vectors * lanes, state_out, s.N);
}

// {x[B,T,H,P], dt[B,T,H], aLog[H], b[B,T,H,N], c[B,T,H,N], d[H], start[B,T], state[B,H,P,N]?}
// → [y[B,T,H,P], state[B,H,P,N]]
static void ssd_scan(const Call& call) {
  const Scan s = scan_of(call.in);
  float *y = call.out[0].f32(), *state_out = call.out[1].f32();
  const float* state_in = call.inputs > 7 ? call.in[7].f32() : nullptr;
  const int64_t size = s.P * s.N;
  for_tasks(*call.pool, s.B * s.H, static_cast<double>(s.T) * recurrence_nanoseconds(s.P, s.N), [&](int64_t i) {
    with_vector_for(s.P, [&](auto v) {
      const float* from = state_in == nullptr ? nullptr : state_in + i * size;
      scan_head<decltype(v)>(s, i / s.H, i % s.H, from, y, state_out + i * size);
    });
  });
}

MOLT_KERNEL("SsdScan", ssd_scan);

MOLT_SIMD_END
