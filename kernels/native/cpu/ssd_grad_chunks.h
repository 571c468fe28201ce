// The gradient of the state-space scan (ssd.simd.cc) for large heads, in chunks of Q tokens from the last to the first,
// all of it small matrix products. Chunks never cross the beginning of a document. With c the running sum of the
// log-decays inside a chunk, X = dt ∘ x, S the state before the chunk and dS the gradient of the state behind it:
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

// The gradient of one head, chunk after chunk, and the memory for one chunk. Rows of a chunk are copied together and
// padded: `values` is P, `states` is N rounded up to kPad. Transposed arrays have rows of kLongestChunk.
struct HeadInChunks {
  static constexpr int64_t Q = kLongestChunk;
  const Scan& s;
  const ScanGrad& grad;
  const int64_t row, h, P, N, values, states;
  const float rate, d;
  double da_log = 0, dd = 0;

  // The chunk at hand: its first token and length, then arrays over its tokens.
  int64_t first = 0, length = 0;
  float *dt, *sums, *from_entry, *to_end;  // [Q]: dt, c, E, F
  float *x, *dy, *weighted;                // [Q, values]: X, dy, and F ∘ X or E ∘ dy
  float *b, *c;                            // [Q, states]
  float *x_PQ, *b_NQ;                      // X and B transposed
  float *g, *m;                            // [Q, Q]: G and M
  float *dx, *dbc;                         // [Q, values]: dX; [Q, states]: dB or dC
  float *da, *read, *written;              // [Q]: da; its second and third terms before they are summed
  float* state_PN;                         // a state transposed, [P, states]

  HeadInChunks(const Scan& scan, const ScanGrad& gradients, int64_t row_, int64_t head, Scratch& scratch);

  int64_t state_size() const { return N * values; }
  float decay() const { return from_entry[length - 1]; }  // e^{c_Q}

  void load_inputs(int64_t first_token, int64_t end);
  void load_gradients();
  void mix();
  void grad_x(const float* dstate);
  void grad_c(const float* state);
  void grad_b(const float* dstate);
  void grad_steps(float through);
  void advance(const float* a, const float* weights, const float* rows, float* state);
  void transpose_state(const float* state);
};

static inline void copy_rows(int64_t rows, int64_t width, const float* from, int64_t ld, float* to, int64_t ld_to) {
  for (int64_t t = 0; t < rows; t++) for_row(width, [&](auto at) { at.store(to + t * ld_to, at.load(from + t * ld)); });
}

// The same into rows that end in padding, which becomes zero.
static void copy_padded(int64_t rows, int64_t width, const float* from, int64_t ld, float* to, int64_t padded) {
  copy_rows(rows, width, from, ld, to, padded);
  for (int64_t t = 0; t < rows; t++)
    for (int64_t i = width; i < padded; i++) to[t * padded + i] = 0;
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

// to[j] = weights[j] ⟨a_j, b_j⟩ for the rows of a and b.
static void dot_rows(int64_t rows, int64_t width, const float* weights, const float* a, const float* b, float* to) {
  for (int64_t j = 0; j < rows; j++) to[j] = weights[j] * dot(width, a + j * width, b + j * width);
}

HeadInChunks::HeadInChunks(const Scan& scan, const ScanGrad& gradients, int64_t row_, int64_t head, Scratch& scratch)
    : s(scan),
      grad(gradients),
      row(row_),
      h(head),
      P(scan.P),
      N(scan.N),
      values(round_up(scan.P, kPad)),
      states(round_up(scan.N, kPad)),
      rate(rate_of(scan, head)),
      d(scan.d[head]) {
  float** const of_tokens[] = {&dt, &sums, &from_entry, &to_end, &da, &read, &written};
  float** const of_values[] = {&x, &dy, &weighted, &dx};
  float** const of_states[] = {&b, &c, &dbc};
  float** const of_pairs[] = {&g, &m};
  for (float** array : of_tokens) *array = scratch.floats(Q);
  for (float** array : of_values) *array = scratch.floats(Q * values);
  for (float** array : of_states) *array = scratch.floats(Q * states);
  for (float** array : of_pairs) *array = scratch.floats(Q * Q);
  x_PQ = scratch.floats(P * Q);
  b_NQ = scratch.floats(N * Q);
  state_PN = scratch.floats(P * states);
}

// The steps and decays of a chunk, and X and B: what both sweeps need.
void HeadInChunks::load_inputs(int64_t first_token, int64_t end) {
  first = first_token;
  length = end - first_token;
  float total = 0;
  for (int64_t i = 0; i < length; i++) {
    dt[i] = s.dt[s.at(row, first + i, h, 1)];
    total -= dt[i] * rate;
    sums[i] = total;
  }
  for_row(length, [&](auto at) {
    at.store(from_entry, exp(at.load(sums)));
    at.store(to_end, exp(total - at.load(sums)));
  });
  copy_padded(length, P, s.x + s.at(row, first, h, P), s.H * P, x, values);
  weigh_rows(length, values, x, dt, x);
  copy_padded(length, N, s.b + s.at(row, first, h, N), s.H * N, b, states);
}

// The rest of what the way back needs: dy and C, and the transposed copies, whose tails are padded with zeros.
void HeadInChunks::load_gradients() {
  copy_padded(length, P, grad.dy + s.at(row, first, h, P), s.H * P, dy, values);
  copy_padded(length, N, s.c + s.at(row, first, h, N), s.H * N, c, states);
  const int64_t padded = round_up(length, kPad);
  __builtin_memset(x + length * values, 0, (padded - length) * values * sizeof(float));
  __builtin_memset(b + length * states, 0, (padded - length) * states * sizeof(float));
  transpose(padded, P, x, values, x_PQ, Q);
  transpose(padded, N, b, states, b_NQ, Q);
}

// state = decay · state + aᵀ · (weights ∘ rows), a[Q, states], rows[Q, values]
void HeadInChunks::advance(const float* a, const float* weights, const float* rows, float* state) {
  weigh_rows(length, values, rows, weights, weighted);
  for_row(state_size(), [&](auto at) { at.store(state, at.load(state) * decay()); });
  product<Order::columns>(N, P, length, a, states, weighted, values, state, values, true);
}

// G and M, in place of W and C·Bᵀ, and the first term of da. Only j <= i is computed, in blocks of rows.
void HeadInChunks::mix() {
  constexpr int64_t rows_at_a_time = 16;
  for (int64_t i = 0; i < length; i += rows_at_a_time) {
    const int64_t rows = smaller(rows_at_a_time, length - i), columns = i + rows;
    product(rows, columns, P, dy + i * values, values, x_PQ, Q, g + i * Q, Q);
    product(rows, columns, N, c + i * states, states, b_NQ, Q, m + i * Q, Q);
  }
  // below[j] = Σ_{i >= k} M_ij W_ij, from the last k to the first; the term of da_k is its sum over j < k
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
      const Vec decay = past ? exp(past ? sums[k] - load(sums + j) : Vec{}) : Vec{};
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

// dX = Mᵀ dy + F ∘ B dSᵀ, and what each token wrote into the state behind the chunk.
void HeadInChunks::grad_x(const float* dstate) {
  product(length, P, N, b, states, dstate, values, dx, values);
  dot_rows(length, values, to_end, x, dx, written);
  weigh_rows(length, values, dx, to_end, dx);
  product<Order::columns>(length, P, length, m, Q, dy, values, dx, values, true);
}

// dC = G B + E ∘ dy S, and what each token read from the state before the chunk.
void HeadInChunks::grad_c(const float* state) {
  transpose_state(state);
  product(length, N, P, dy, values, state_PN, states, dbc, states);
  dot_rows(length, states, from_entry, c, dbc, read);
  weigh_rows(length, states, dbc, from_entry, dbc);
  product(length, N, length, g, Q, b, states, dbc, states, true);
  copy_rows(length, N, dbc, states, grad.dc + s.at(row, first, h, N), s.H * N);
}

// dB = Gᵀ C + F ∘ X dS
void HeadInChunks::grad_b(const float* dstate) {
  transpose_state(dstate);
  product(length, N, P, x, values, state_PN, states, dbc, states);
  weigh_rows(length, states, dbc, to_end, dbc);
  product<Order::columns>(length, N, length, g, Q, c, states, dbc, states, true);
  copy_rows(length, N, dbc, states, grad.db + s.at(row, first, h, N), s.H * N);
}

// The rest of da, and from it and dX the gradients of dt, aLog, x and d. `through` is e^{c_Q} ⟨dS, S⟩.
void HeadInChunks::grad_steps(float through) {
  float read_after = 0, written_before = 0;
  for (int64_t k = length - 1; k >= 0; k--) {
    read_after += read[k];
    da[k] += read_after + through;
  }
  for (int64_t k = 0; k < length; k++) {
    da[k] += written_before;
    written_before += written[k];
  }
  for (int64_t i = 0; i < length; i++) {
    const int64_t token = s.at(row, first + i, h, 1);
    Vec steps{}, skips{};
    for_row(P, [&](auto at) {
      const Vec input = at.load(s.x + token * P), gradient = at.load(dx + i * values), dout = at.load(dy + i * values);
      at.store(grad.dx + token * P, gradient * dt[i] + dout * d);
      steps += input * gradient;
      skips += input * dout;
    });
    grad.ddt[token] = sum(steps) - rate * da[i];
    da_log -= static_cast<double>(rate * dt[i] * da[i]);
    dd += static_cast<double>(sum(skips));
  }
}

void HeadInChunks::transpose_state(const float* state) {
  transpose(N, P, state, values, state_PN, states);
  for (int64_t p = 0; p < P; p++)
    for (int64_t n = N; n < states; n++) state_PN[p * states + n] = 0;
}

// `firsts` are the first tokens of the chunks, and T behind them (cut_row).
static void scan_head_grad_chunks(const Scan& s, int64_t row, int64_t h, const ScanGrad& grad, int64_t chunks,
                                  const int32_t* firsts) {
  Scratch scratch;
  HeadInChunks head(s, grad, row, h, scratch);
  const int64_t size = head.state_size();
  float* entries = scratch.floats(chunks * size);  // the state before each chunk
  float* dstate = scratch.floats(size);
  const auto begins = [&](int64_t i) { return i == 0 || s.begins_document(row, firsts[i]); };

  for (int64_t i = 0; i < chunks; i++) {
    float* state = entries + i * size;
    if (begins(i)) {
      __builtin_memset(state, 0, size * sizeof(float));
    } else {
      head.load_inputs(firsts[i - 1], firsts[i]);
      __builtin_memcpy(state, state - size, size * sizeof(float));
      head.advance(head.b, head.to_end, head.x, state);
    }
  }

  __builtin_memset(dstate, 0, size * sizeof(float));
  for (int64_t i = chunks - 1; i >= 0; i--) {
    const float* state = entries + i * size;
    head.load_inputs(firsts[i], firsts[i + 1]);
    head.load_gradients();
    head.mix();
    head.grad_x(dstate);
    head.grad_c(state);
    head.grad_b(dstate);
    head.grad_steps(begins(i) ? 0 : head.decay() * dot(size, dstate, state));
    if (begins(i)) {
      __builtin_memset(dstate, 0, size * sizeof(float));
    } else {
      head.advance(head.c, head.from_entry, head.dy, dstate);
    }
  }
  grad.da_log[row * s.H + h] = head.da_log;
  grad.dd[row * s.H + h] = head.dd;
}

// Cuts a row into chunks; firsts[i] is the first token of chunk i, firsts[count] = T. Returns the count.
static inline int64_t cut_row(const Scan& s, int64_t row, int32_t* firsts) {
  const int64_t length = chunk_length(s.P);
  int64_t count = 0;
  for (int64_t t = 0; t < s.T; t++)
    if (t == 0 || t - firsts[count - 1] == length || s.begins_document(row, t))
      firsts[count++] = static_cast<int32_t>(t);
  firsts[count] = static_cast<int32_t>(s.T);
  return count;
}

MOLT_SIMD_END
