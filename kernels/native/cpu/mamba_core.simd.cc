// A Mamba-2 mixer between its two projections, one task a head of a row:
//   x, B, C = φ(conv4(·) + bias);   dt = softplus(e + dtBias)
//   S_t = exp(−dt_t exp(aLog)) S_{t−1} + dt_t x_t ⊗ B_t;   y_t = S_t C_t + d x_t;   out = gain ∘ y ∘ SiLU(z)
// Nothing between the projections reaches memory: tokens pass in blocks whose rows stay in the nearest caches. The scan
// is the plain recurrence (ssd.simd.cc says why), but where products of bf16 are twice as fast as those of floats, large
// heads go in chunks.
//
// levels: avx512bf16
#include "mamba_core.h"
#include "parallel.h"
#include "ssd_chunk.h"

MOLT_SIMD_BEGIN

constexpr int64_t kBlock = 64;

// Rows of one head of a row of tokens, out of the tensors of the kernel.
class CoreRows {
  const Mixer& m;
  const int64_t row, h;
  HeadRows& rows;
  const RunRows raw_x, raw_b, raw_c;
  float* z;
  const Tensor& out;

 public:
  CoreRows(const Mixer& mixer, int64_t row_, int64_t head, HeadRows& head_rows, int64_t longest, const Tensor& output,
            Scratch& scratch)
      : m(mixer),
        row(row_),
        h(head),
        rows(head_rows),
        raw_x(m.x_of(h), longest, rows.values, scratch),
        raw_b(m.b_of(h), longest, rows.states, scratch),
        raw_c(m.c_of(h), longest, rows.states, scratch),
        z(scratch.floats(longest * rows.values)),
        out(output) {}

  void load(int64_t first, int64_t end) {
    rows.length = end - first;
    raw_x.load(m, row, first, end);
    raw_b.load(m, row, first, end);
    raw_c.load(m, row, first, end);
    convolve(m, row, raw_x, first, end, rows.x, nullptr);
    convolve(m, row, raw_b, first, end, rows.b, nullptr);
    convolve(m, row, raw_c, first, end, rows.c, nullptr);
    raw_steps(m, row, h, first, end, rows.dt);
    for_row(rows.length, [&](auto at) { at.store(rows.dt, softplus(at.load(rows.dt))); });
  }

  void store(int64_t first, int64_t end) const {
    copy_columns(m.projected, row * m.T + first, end - first, m.z_of(h), z, rows.values);
    const float* gain = m.gain + m.z_of(h).first;
    with_stored(out, [&](auto* heads) {
      for (int64_t t = first; t < end; t++) {
        auto* to = heads + (row * m.T + t) * m.inner() + m.z_of(h).first;
        const int64_t from = (t - first) * rows.values;
        for_row(m.P, [&](auto at) {
          const Vec gate = at.load(z + from);
          at.store(to, at.load(gain) * at.load(rows.y + from) * gate * sigmoid(gate));
        });
      }
    });
  }
};

// Token by token: the recurrence.
template <class V>
static void core_in_steps(const Mixer& m, int64_t row, int64_t h, const Tensor& out) {
  constexpr int64_t lanes = lanes_of<V>;
  const Head head = m.head(h);
  const int64_t vectors = blocks_of(m.P, lanes), values = vectors * lanes, longest = smaller(m.T, kBlock);
  Scratch scratch;
  HeadRows rows(longest, values, round_up(m.N, kPad), scratch);
  CoreRows source(m, row, h, rows, longest, out, scratch);
  float* decay = scratch.floats(longest);
  V* state = reinterpret_cast<V*>(scratch.floats(m.N * values));
  const auto forget = [&] { __builtin_memset(static_cast<void*>(state), 0, m.N * values * sizeof(float)); };

  forget();
  const int32_t* start = m.start + row * m.T;
  for (int64_t first = 0; first < m.T; first += kBlock) {
    const int64_t end = smaller(m.T, first + kBlock);
    source.load(first, end);
    for_row(rows.length, [&](auto at) { at.store(decay, exp(at.load(rows.dt) * -head.rate)); });
    for (int64_t t = first; t < end; t++) {
      const int64_t r = t - first;
      const float *x = rows.x + r * values, *b = rows.b + r * rows.states, *c = rows.c + r * rows.states;
      if (start[t] == t) forget();
      for (int64_t i = 0; i < vectors; i++) {
        const V value = load<V>(x + i * lanes);
        const V read = advance(m.N, vectors, state + i, state + i, decay[r], value * rows.dt[r], b, c);
        store(rows.y + r * values + i * lanes, read + value * head.d);
      }
    }
    source.store(first, end);
  }
}

// In chunks of matrix products.
template <class Step>
static void core_in_chunks(const Mixer& m, int64_t row, int64_t h, const Tensor& out) {
  const Head head = m.head(h);
  const int32_t* start = m.start + row * m.T;
  const int64_t longest = Chunk<Step>::longest_for(m.P, m.T);
  Scratch scratch;
  HeadRows rows(longest, Chunk<Step>::values_for(m.P), round_up(m.N, kPad), scratch);
  Chunk<Step> chunk(head, rows, scratch);
  CoreRows source(m, row, h, rows, longest, out, scratch);
  float* state = scratch.floats(chunk.state_floats());
  int32_t* firsts = scratch.ints(m.T + 1);
  const int64_t chunks = cut_row(m.T, start, longest, firsts);
  for (int64_t i = 0; i < chunks; i++) {
    if (i == 0 || start[firsts[i]] == firsts[i]) __builtin_memset(state, 0, chunk.state_floats() * sizeof(float));
    source.load(firsts[i], firsts[i + 1]);
    chunk.load_written();
    chunk.load_read();
    chunk.mix();
    chunk.outputs(state);
    chunk.carry_state(state);
    source.store(firsts[i], firsts[i + 1]);
  }
}

// {projected[B,T,HP+C], e[B,T,H], convWeight[C,4], convBias[C], dtBias[H], aLog[H], d[H], gain[HP], start[B,T]}
// [P, N, s] → heads[B,T,HP], stored like projected
static void mamba_core(const Call& call) {
  Scratch scratch;
  const Mixer m = mixer_of(call.in, call, scratch);
  const double nanoseconds = recurrence_nanoseconds(m.P, m.N) + convolve_nanoseconds(m);
  for_tasks(*call.pool, m.B * m.H, static_cast<double>(m.T) * nanoseconds, [&](int64_t i) {
    with_step(m, [&](auto step) {
      using Step = decltype(step);
      if constexpr (!is_same<Step, Floats>)
        if (m.P > 16) return core_in_chunks<Step>(m, i / m.H, i % m.H, call.out[0]);
      with_vector_for(m.P, [&](auto v) { core_in_steps<decltype(v)>(m, i / m.H, i % m.H, call.out[0]); });
    });
  });
}

MOLT_KERNEL("MambaCore", mamba_core);

MOLT_SIMD_END
