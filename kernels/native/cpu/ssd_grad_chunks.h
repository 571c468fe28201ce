// The gradient of the state-space scan (ssd.simd.cc) for large heads, in chunks of Q tokens from the last to the first, all of
// it small matrix products. Chunks never cross the beginning of a document. With c the running sum of the log-decays
// inside a chunk, X = dt ∘ x, S the state before the chunk and dS the gradient of the state behind it:
//   E_i = exp(c_i),  F_j = exp(c_Q − c_j),  L_ij = exp(c_i − c_j) for i >= j, else 0
//   M = L ∘ C Bᵀ,  W = dy Xᵀ,  G = L ∘ W
//   dX = Mᵀ dy + F ∘ B dSᵀ        dx = dt ∘ dX + d dy
//   dC = G B + E ∘ dy S           dB = Gᵀ C + F ∘ X dS
//   da_k = Σ_{i >= k > j} M_ij W_ij + Σ_{i >= k} E_i ⟨C_i, (dy S)_i⟩ + Σ_{j < k} F_j ⟨X_j, (B dSᵀ)_j⟩ + e^{c_Q} ⟨dS, S⟩
//   ddt = ⟨x, dX⟩ − exp(aLog) da  dS ← e^{c_Q} dS + (E ∘ dy)ᵀ C
// Every term of da is a sum of its own parts; the cheaper running difference of two large sums would cancel. The states
// before the chunks are recomputed by one forward sweep. States lie as [N][P]: values in the lanes.
#pragma once
#include "ssd.h"
#include "tile.h"

MOLT_SIMD_BEGIN

// Longer chunks cost more inside a chunk (Q² a product), shorter ones more between chunks (P·N a token).
constexpr int64_t kLongestChunk = 64;
static inline int64_t chunk_length(int64_t P) { return smaller(kLongestChunk, larger(16, round_up(P, 16))); }

// One chunk of one head, its rows copied together, padded and weighted. `values` wide: [Q, padded P]; `states` wide:
// [Q, padded N]. Transposed arrays are [P or N, kLongestChunk].
struct Chunk {
  int64_t first, length;
  float *x, *dy, *x_dP, *dy_weighted;  // X and dy [Q, values]; X transposed; E ∘ dy or F ∘ X
  float *b, *c, *b_dN;                 // [Q, states]; B transposed
  float *dt, *sums, *from_entry, *to_end;  // [Q]: dt, c, E, F
  float decay;                             // e^{c_Q}
};

struct Sizes {
  int64_t P, N, values, states;  // the padded widths
  int64_t state() const { return N * values; }
};

static inline void copy_rows(int64_t rows, int64_t width, const float* from, int64_t ld, float* to, int64_t ld_to) {
  for (int64_t t = 0; t < rows; t++) {
    for_row(width, [&](auto at) { at.store(to + t * ld_to, at.load(from + t * ld)); });
    for (int64_t i = width; i < ld_to; i++) to[t * ld_to + i] = 0;
  }
}

// to[rows, width] = from, each row times its weight.
static inline void weigh_rows(int64_t rows, int64_t width, const float* from, const float* weights, float* to) {
  for (int64_t t = 0; t < rows; t++)
    for_row(width, [&](auto at) { at.store(to + t * width, at.load(from + t * width) * weights[t]); });
}

static inline float dot(int64_t n, const float* a, const float* b) {
  Vec products{};
  for_row(n, [&](auto at) { products += at.load(a) * at.load(b); });
  return sum(products);
}

// The steps and decays of a chunk, and X and B, which both sweeps need.
static void load_inputs(const Scan& s, const Sizes& size, int64_t row, int64_t h, float rate, Chunk& chunk) {
  const int64_t first = chunk.first, length = chunk.length;
  float total = 0;
  for (int64_t i = 0; i < length; i++) {
    chunk.dt[i] = s.dt[s.at(row, first + i, h, 1)];
    total -= chunk.dt[i] * rate;
    chunk.sums[i] = total;
  }
  for_row(length, [&](auto at) {
    at.store(chunk.from_entry, exp(at.load(chunk.sums)));
    at.store(chunk.to_end, exp(total - at.load(chunk.sums)));
  });
  chunk.decay = chunk.from_entry[length - 1];
  copy_rows(length, size.P, s.x + s.at(row, first, h, size.P), s.H * size.P, chunk.x, size.values);
  weigh_rows(length, size.values, chunk.x, chunk.dt, chunk.x);
  copy_rows(length, size.N, s.b + s.at(row, first, h, size.N), s.H * size.N, chunk.b, size.states);
}

// state = decay · state + aᵀ · values, a[Q, states], values[Q, values]
static void advance(const Sizes& size, const Chunk& chunk, const float* a, const float* values, float* state) {
  for_row(size.state(), [&](auto at) { at.store(state, at.load(state) * chunk.decay); });
  product<Order::columns>(size.N, size.P, chunk.length, a, size.states, values, size.values, state, size.values, true);
}

// G and M of a chunk, in place of W and C·Bᵀ, and the first term of da. Only j <= i is computed, in blocks of rows.
static void mix(const Sizes& size, const Chunk& chunk, float* g, float* m, float* da) {
  constexpr int64_t Q = kLongestChunk, rows_at_a_time = 16;
  const int64_t length = chunk.length;
  for (int64_t i0 = 0; i0 < length; i0 += rows_at_a_time) {
    const int64_t rows = smaller(rows_at_a_time, length - i0), columns = i0 + rows;
    product(rows, columns, size.P, chunk.dy + i0 * size.values, size.values, chunk.x_dP, Q, g + i0 * Q, Q);
    product(rows, columns, size.N, chunk.c + i0 * size.states, size.states, chunk.b_dN, Q, m + i0 * Q, Q);
  }
  // below[j] = Σ_{i >= k} M_ij W_ij, from the last k to the first; da_k is its sum over j < k
  alignas(64) float below[Q] = {};
  for (int64_t k = length - 1; k >= 0; k--) {
    Vec total{};
    for (int64_t j = 0; j < length; j += kLanes) {
      float *g_row = g + k * Q + j, *m_row = m + k * Q + j;
      const auto lane = lane_numbers<Vec>() + static_cast<int>(j);
      if (j > k) {
        store(g_row, Vec{});
        store(m_row, Vec{});
        continue;
      }
      // masked before the exponential, whose argument would be positive above the diagonal
      const auto past = lane <= static_cast<int>(k);
      const Vec decay = past ? exp(past ? chunk.sums[k] - load(chunk.sums + j) : Vec{}) : Vec{};
      const Vec w = past ? load(g_row) : Vec{}, mixed = past ? decay * load(m_row) : Vec{};
      store(g_row, decay * w);
      store(m_row, mixed);
      const Vec sum_below = load(below + j) + mixed * w;
      store(below + j, sum_below);
      total += lane < static_cast<int>(k) ? sum_below : Vec{};
    }
    da[k] = sum(total);
  }
}

static void scan_head_grad_chunks(const Scan& s, int64_t row, int64_t h, const ScanGrad& grad, int64_t chunks, const int32_t* firsts) {
  constexpr int64_t Q = kLongestChunk;
  const Sizes size = {s.P, s.N, round_up(s.P, kPad), round_up(s.N, kPad)};
  const float rate = rate_of(s, h), d = s.d[h];
  Scratch scratch;
  Chunk chunk;
  chunk.x = scratch.floats(Q * size.values);
  chunk.dy = scratch.floats(Q * size.values);
  chunk.dy_weighted = scratch.floats(Q * size.values);
  chunk.x_dP = scratch.floats(size.P * Q);
  chunk.b = scratch.floats(Q * size.states);
  chunk.c = scratch.floats(Q * size.states);
  chunk.b_dN = scratch.floats(size.N * Q);
  chunk.dt = scratch.floats(Q);
  chunk.sums = scratch.floats(Q);
  chunk.from_entry = scratch.floats(Q);
  chunk.to_end = scratch.floats(Q);
  float *g = scratch.floats(Q * Q), *m = scratch.floats(Q * Q);
  float *dvalues = scratch.floats(Q * size.values), *dstates = scratch.floats(Q * size.states);
  float *da = scratch.floats(Q), *read = scratch.floats(Q), *written = scratch.floats(Q);
  float* entries = scratch.floats(chunks * size.state());      // the state before each chunk
  float* dstate = scratch.floats(size.state());
  float* transposed = scratch.floats(size.P * size.states);    // of a state: [P, states]

  const auto at_chunk = [&](int64_t i) {
    chunk.first = firsts[i];
    chunk.length = firsts[i + 1] - firsts[i];
    load_inputs(s, size, row, h, rate, chunk);
  };
  const auto begins = [&](int64_t i) { return i == 0 || s.begins_document(row, firsts[i]); };

  __builtin_memset(entries, 0, size.state() * sizeof(float));
  for (int64_t i = 0; i + 1 < chunks; i++) {
    float* next = entries + (i + 1) * size.state();
    if (begins(i + 1)) {
      __builtin_memset(next, 0, size.state() * sizeof(float));
      continue;
    }
    at_chunk(i);
    weigh_rows(chunk.length, size.values, chunk.x, chunk.to_end, chunk.dy_weighted);
    __builtin_memcpy(next, entries + i * size.state(), size.state() * sizeof(float));
    advance(size, chunk, chunk.b, chunk.dy_weighted, next);
  }

  const auto transpose_state = [&](const float* state) {
    transpose(size.N, size.P, state, size.values, transposed, size.states);
    for (int64_t p = 0; p < size.P; p++)
      for (int64_t n = size.N; n < size.states; n++) transposed[p * size.states + n] = 0;
  };

  __builtin_memset(dstate, 0, size.state() * sizeof(float));
  double da_log = 0, dd = 0;
  for (int64_t i = chunks - 1; i >= 0; i--) {
    at_chunk(i);
    const int64_t first = chunk.first, length = chunk.length;
    const float* state = entries + i * size.state();
    copy_rows(length, size.P, grad.dy + s.at(row, first, h, size.P), s.H * size.P, chunk.dy, size.values);
    copy_rows(length, size.N, s.c + s.at(row, first, h, size.N), s.H * size.N, chunk.c, size.states);
    const int64_t padded = round_up(length, kPad);
    __builtin_memset(chunk.x + length * size.values, 0, (smaller(Q, padded) - length) * size.values * sizeof(float));
    __builtin_memset(chunk.b + length * size.states, 0, (smaller(Q, padded) - length) * size.states * sizeof(float));
    transpose(padded, size.P, chunk.x, size.values, chunk.x_dP, Q);
    transpose(padded, size.N, chunk.b, size.states, chunk.b_dN, Q);
    mix(size, chunk, g, m, da);

    // dX, and what each token wrote into the state behind the chunk
    product(length, size.P, size.N, chunk.b, size.states, dstate, size.values, dvalues, size.values);
    for (int64_t j = 0; j < length; j++) written[j] = chunk.to_end[j] * dot(size.values, chunk.x + j * size.values, dvalues + j * size.values);
    weigh_rows(length, size.values, dvalues, chunk.to_end, dvalues);
    product<Order::columns>(length, size.P, length, m, Q, chunk.dy, size.values, dvalues, size.values, true);

    // dC, and what each token read from the state before the chunk
    transpose_state(state);
    product(length, size.N, size.P, chunk.dy, size.values, transposed, size.states, dstates, size.states);
    for (int64_t j = 0; j < length; j++) read[j] = chunk.from_entry[j] * dot(size.states, chunk.c + j * size.states, dstates + j * size.states);
    weigh_rows(length, size.states, dstates, chunk.from_entry, dstates);
    product(length, size.N, length, g, Q, chunk.b, size.states, dstates, size.states, true);
    for (int64_t j = 0; j < length; j++)
      for_row(size.N, [&](auto at) { at.store(grad.dc + s.at(row, first + j, h, size.N), at.load(dstates + j * size.states)); });

    // dB
    transpose_state(dstate);
    product(length, size.N, size.P, chunk.x, size.values, transposed, size.states, dstates, size.states);
    weigh_rows(length, size.states, dstates, chunk.to_end, dstates);
    product<Order::columns>(length, size.N, length, g, Q, chunk.c, size.states, dstates, size.states, true);
    for (int64_t j = 0; j < length; j++)
      for_row(size.N, [&](auto at) { at.store(grad.db + s.at(row, first + j, h, size.N), at.load(dstates + j * size.states)); });

    // the gradient of the log-decays, then of dt, x and d
    const float through = begins(i) ? 0 : chunk.decay * dot(size.state(), dstate, state);
    float sum_read = 0, sum_written = 0;
    for (int64_t k = length - 1; k >= 0; k--) da[k] += (sum_read += read[k]) + through;
    for (int64_t k = 0; k < length; sum_written += written[k++]) da[k] += sum_written;
    for (int64_t j = 0; j < length; j++) {
      const int64_t token = s.at(row, first + j, h, 1);
      Vec steps{}, skips{};
      for_row(size.P, [&](auto at) {
        const Vec x = at.load(s.x + token * size.P), dx = at.load(dvalues + j * size.values);
        const Vec dy = at.load(chunk.dy + j * size.values);
        at.store(grad.dx + token * size.P, dx * chunk.dt[j] + dy * d);
        steps += x * dx;
        skips += x * dy;
      });
      grad.ddt[token] = sum(steps) - rate * da[j];
      da_log -= static_cast<double>(rate * chunk.dt[j] * da[j]);
      dd += static_cast<double>(sum(skips));
    }

    if (begins(i)) {
      __builtin_memset(dstate, 0, size.state() * sizeof(float));
    } else {
      weigh_rows(length, size.values, chunk.dy, chunk.from_entry, chunk.dy_weighted);
      advance(size, chunk, chunk.c, chunk.dy_weighted, dstate);
    }
  }
  grad.da_log[row * s.H + h] = da_log;
  grad.dd[row * s.H + h] = dd;
}

// Cuts a row into chunks; firsts[i] is the first token of chunk i, firsts[count] = T. Returns the count.
static inline int64_t cut_row(const Scan& s, int64_t row, int32_t* firsts) {
  const int64_t length = chunk_length(s.P);
  int64_t count = 0;
  for (int64_t t = 0; t < s.T; t++)
    if (t == 0 || t - firsts[count - 1] == length || s.begins_document(row, t)) firsts[count++] = static_cast<int32_t>(t);
  firsts[count] = static_cast<int32_t>(s.T);
  return count;
}

MOLT_SIMD_END
