// The gradient of the state-space scan for large heads, in chunks of Q tokens from the last to the first, all of it small
// matrix products. Chunks never cross the beginning of a document. With c the running sum of the log-decays inside a
// chunk, S the state before the chunk and dS the gradient of the state behind it:
//   E_i = exp(c_i),  F_j = exp(c_Q − c_j),  L_ij = exp(c_i − c_j) for i >= j, else 0
//   M_ij = L_ij ⟨C_i, B_j⟩ dt_j,   G_ij = L_ij ⟨dy_i, x_j⟩ dt_j,   H_ij = M_ij ⟨dy_i, x_j⟩
//   y  = M x  + E ∘ C Sᵀ + d x        dx = Mᵀ dy + dt ∘ F ∘ B dSᵀ + d dy
//   dC = G B  + E ∘ dy S              dB = Gᵀ C  + dt ∘ F ∘ x dS
//   da_k = Σ_{i >= k > j} H_ij + Σ_{i >= k} E_i ⟨C_i, (dy S)_i⟩ + Σ_{j < k} dt_j F_j ⟨x_j, (B dSᵀ)_j⟩ + e^{c_Q} ⟨dS, S⟩
//   ddt_j = Σ_i H_ij / dt_j + F_j ⟨x_j, (B dSᵀ)_j⟩ − rate da_j        dS ← e^{c_Q} dS + (E ∘ dy)ᵀ C
// Every term of da is a sum of its own parts; the cheaper running difference of two large sums would cancel. States lie
// as [N][values]: values in the lanes.
#pragma once
#include "ssd_head.h"

MOLT_SIMD_BEGIN

// Longer chunks cost more inside a chunk (Q² a product), shorter ones more between chunks (P·N a token).
constexpr int64_t kLongestChunk = 64;

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

// A form of the gradient, as ssd_grad.h drives it.
class ChunksGrad {
  static constexpr int64_t Q = kLongestChunk;
  static constexpr int64_t kRows = 16;  // of a [Q, Q] matrix at a time, to leave out what lies above its diagonal

  const Head& head;
  HeadRows& rows;
  const int64_t P, N, values, states;

  float *sums, *from_entry, *left, *to_end;  // [Q]: c, E, F, dt ∘ F
  float *da, *direct, *read, *written;       // [Q]: da; Σ_i H_ij / dt_j; E_i ⟨C_i, (dy S)_i⟩; ⟨x_j, (B dSᵀ)_j⟩
  float* weighted;                           // [Q, values]: dt ∘ F ∘ x or E ∘ dy
  float *x_PQ, *b_NQ;                        // x and B transposed
  float *g, *m;                              // [Q, Q]: G and M
  float* state_PN;                           // a state transposed, [values, states]

 public:
  static int64_t values_for(int64_t P) { return round_up(P, kPad); }
  static int64_t longest_block(const Head& head, int64_t T) {
    return smaller(T, smaller(kLongestChunk, larger(16, round_up(head.P, 16))));
  }

  ChunksGrad(const Head& head_, HeadRows& rows_, int64_t, Scratch& scratch)
      : head(head_), rows(rows_), P(head_.P), N(head_.N), values(rows_.values), states(rows_.states) {
    float** const of_tokens[] = {&sums, &from_entry, &left, &to_end, &da, &direct, &read, &written};
    for (float** array : of_tokens) *array = scratch.floats(Q);
    weighted = scratch.floats(Q * values);
    x_PQ = scratch.floats(P * Q);
    b_NQ = scratch.floats(N * Q);
    g = scratch.floats(Q * Q);
    m = scratch.floats(Q * Q);
    state_PN = scratch.floats(values * states);
    __builtin_memset(state_PN, 0, values * states * sizeof(float));
  }

  int64_t state_floats() const { return N * values; }

  // From the state before the chunk to the state behind it.
  void forward(float* state) {
    decays();
    weigh_rows(rows.length, values, rows.x, to_end, weighted);
    carry(rows.b, state);
  }

  // dstate is the gradient of the state behind the chunk and becomes that of the state before it; `fresh` says that the
  // state before it is zero because a document begins.
  void backward(const float* state, float* dstate, bool fresh) {
    decays();
    transpose_rows();
    mix();
    grad_x(dstate);
    grad_c(state);
    grad_b(dstate);
    if (rows.y != nullptr) outputs(state);
    grad_steps(fresh ? 0 : decay() * dot(state_floats(), dstate, state));
    if (fresh) return;
    weigh_rows(rows.length, values, rows.dy, from_entry, weighted);
    carry(rows.c, dstate);
  }

 private:
  float decay() const { return from_entry[rows.length - 1]; }  // e^{c_Q}

  void decays() {
    float total = 0;
    for (int64_t i = 0; i < rows.length; i++) sums[i] = total -= rows.dt[i] * head.rate;
    for_row(rows.length, [&](auto at) {
      at.store(from_entry, exp(at.load(sums)));
      at.store(left, exp(total - at.load(sums)));
      at.store(to_end, at.load(rows.dt) * at.load(left));
    });
  }

  // state = e^{c_Q} state + aᵀ weighted, a[Q, states]
  void carry(const float* a, float* state) {
    for_row(state_floats(), [&](auto at) { at.store(state, at.load(state) * decay()); });
    product<Order::columns>(N, P, rows.length, a, states, weighted, values, state, values, true);
  }

  // The tails of the transposed rows are never used, but must be numbers.
  void transpose_rows() {
    const int64_t padded = round_up(rows.length, kPad), tail = padded - rows.length;
    __builtin_memset(rows.x + rows.length * values, 0, tail * values * sizeof(float));
    __builtin_memset(rows.b + rows.length * states, 0, tail * states * sizeof(float));
    transpose(padded, P, rows.x, values, x_PQ, Q);
    transpose(padded, N, rows.b, states, b_NQ, Q);
  }

  // G and M, in place of dy xᵀ and C Bᵀ, and the first terms of da and ddt. Only blocks that touch j <= i are computed.
  void mix() {
    for (int64_t i = 0; i < rows.length; i += kRows) {
      const int64_t count = smaller(kRows, rows.length - i), columns = i + count;
      product(count, columns, P, rows.dy + i * values, values, x_PQ, Q, g + i * Q, Q);
      product(count, columns, N, rows.c + i * states, states, b_NQ, Q, m + i * Q, Q);
    }
    // direct[j] = Σ_{i >= k} H_ij / dt_j, from the last k to the first; times dt it is the term of da_k, summed over j < k
    for (int64_t j = 0; j < Q; j++) direct[j] = 0;
    for (int64_t k = rows.length - 1; k >= 0; k--) {
      Vec total{};
      for (int64_t j = 0; j < round_up(k + 1, kRows); j += kLanes) {
        float *g_row = g + k * Q + j, *m_row = m + k * Q + j;
        const auto lane = lane_numbers<Vec>() + static_cast<int>(j);
        // masked before the exponential, whose argument would be positive above the diagonal
        const auto past = lane <= static_cast<int>(k);
        const Vec decay = past ? exp(past ? sums[k] - load(sums + j) : Vec{}) : Vec{};
        const Vec w = past ? load(g_row) : Vec{}, mixed = past ? decay * load(m_row) : Vec{};
        const Vec dt = past ? load(rows.dt + j) : Vec{};
        store(g_row, decay * dt * w);
        store(m_row, mixed * dt);
        const Vec below = load(direct + j) + mixed * w;
        store(direct + j, below);
        total += lane < static_cast<int>(k) ? below * dt : Vec{};
      }
      da[k] = sum(total);
    }
  }

  // to[Q, columns] += a b for a triangle a[Q, Q], or aᵀ b
  void add_lower(const float* a, const float* b, int64_t columns, int64_t ld, float* to) {
    for (int64_t i = 0; i < rows.length; i += kRows) {
      const int64_t count = smaller(kRows, rows.length - i);
      product(count, columns, i + count, a + i * Q, Q, b, ld, to + i * ld, ld, true);
    }
  }
  void add_upper(const float* a, const float* b, int64_t columns, int64_t ld, float* to) {
    for (int64_t j = 0; j < rows.length; j += kRows) {
      const int64_t count = smaller(kRows, rows.length - j);
      product<Order::columns>(count, columns, rows.length - j, a + j * Q + j, Q, b + j * ld, ld, to + j * ld, ld, true);
    }
  }

  // dx, and what each token wrote into the state behind the chunk.
  void grad_x(const float* dstate) {
    product(rows.length, P, N, rows.b, states, dstate, values, rows.dx, values);
    Vec skips{};
    for (int64_t j = 0; j < rows.length; j++) {
      float *dx = rows.dx + j * values, *x = rows.x + j * values, *dy = rows.dy + j * values;
      Vec products{};
      for_row(P, [&](auto at) {
        const Vec value = at.load(x), from_state = at.load(dx), dout = at.load(dy);
        products += value * from_state;
        skips += value * dout;
        at.store(dx, from_state * to_end[j] + dout * head.d);
      });
      written[j] = sum(products);
    }
    rows.dd += static_cast<double>(sum(skips));
    add_upper(m, rows.dy, P, values, rows.dx);
  }

  // dC, and what each token read from the state before the chunk.
  void grad_c(const float* state) {
    transpose(N, P, state, values, state_PN, states);
    product(rows.length, N, P, rows.dy, values, state_PN, states, rows.dc, states);
    for (int64_t i = 0; i < rows.length; i++)
      read[i] = from_entry[i] * dot(N, rows.c + i * states, rows.dc + i * states);
    weigh_rows(rows.length, states, rows.dc, from_entry, rows.dc);
    add_lower(g, rows.b, N, states, rows.dc);
  }

  void grad_b(const float* dstate) {
    transpose(N, P, dstate, values, state_PN, states);
    product(rows.length, N, P, rows.x, values, state_PN, states, rows.db, states);
    weigh_rows(rows.length, states, rows.db, to_end, rows.db);
    add_upper(g, rows.c, N, states, rows.db);
  }

  void outputs(const float* state) {
    product(rows.length, P, N, rows.c, states, state, values, rows.y, values);
    for (int64_t i = 0; i < rows.length; i++) {
      float* y = rows.y + i * values;
      for_row(P, [&](auto at) { at.store(y, at.load(y) * from_entry[i] + at.load(rows.x + i * values) * head.d); });
    }
    add_lower(m, rows.x, P, values, rows.y);
  }

  // The rest of da, and from it the gradients of dt and aLog. `through` is e^{c_Q} ⟨dS, S⟩.
  void grad_steps(float through) {
    float read_after = 0, written_before = 0;
    for (int64_t k = rows.length - 1; k >= 0; k--) {
      read_after += read[k];
      da[k] += read_after + through;
    }
    for (int64_t k = 0; k < rows.length; k++) {
      da[k] += written_before;
      written_before += to_end[k] * written[k];
      rows.ddt[k] = direct[k] + left[k] * written[k] - head.rate * da[k];
      rows.da_log -= static_cast<double>(head.rate * rows.dt[k] * da[k]);
    }
  }
};

MOLT_SIMD_END
