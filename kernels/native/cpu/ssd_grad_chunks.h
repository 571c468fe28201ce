// The gradient of the state-space scan for large heads, in chunks from the last to the first. With the names of
// ssd_chunk.h, dS the gradient of the state behind the chunk, and
//   G_ij = L_ij ⟨dy_i, x_j⟩ dt_j,   H_ij = M_ij ⟨dy_i, x_j⟩:
//   dx = Mᵀ dy + dt ∘ F ∘ B dSᵀ + d dy      dC = G B + E ∘ dy S      dB = Gᵀ C + dt ∘ F ∘ x dS
//   da_k = Σ_{i >= k > j} H_ij + Σ_{i >= k} E_i ⟨C_i, (dy S)_i⟩ + Σ_{j < k} dt_j F_j ⟨x_j, (B dSᵀ)_j⟩ + e^{c_Q} ⟨dS, S⟩
//   ddt_j = Σ_i H_ij / dt_j + F_j ⟨x_j, (B dSᵀ)_j⟩ − rate da_j        dS ← e^{c_Q} dS + (E ∘ dy)ᵀ C
// Every term of da is a sum of its own parts; the cheaper running difference of two large sums would cancel.
#pragma once
#include "ssd_chunk.h"

MOLT_SIMD_BEGIN

static inline float dot(int64_t n, const float* a, const float* b) {
  Vec products{};
  for_row(n, [&](auto at) { products += at.load(a) * at.load(b); });
  return sum(products);
}

// A form of the gradient, as ssd_grad.h drives it.
template <class Step>
class ChunksGrad : Chunk<Step> {
  using Base = Chunk<Step>;
  using typename Base::Element;
  using Base::across, Base::as_pairs, Base::as_rows, Base::as_transposed, Base::elements, Base::head, Base::multiply;
  using Base::b_pairs, Base::b_rows, Base::c_rows, Base::from_entry, Base::left, Base::m, Base::to_end, Base::weighted;
  using Base::kFloats, Base::N, Base::P, Base::Q, Base::states, Base::values, Base::word;

  HeadGradRows& rows;
  float *da, *direct, *read, *written;  // [Q]: da; Σ_i H_ij / dt_j; E_i ⟨C_i, (dy S)_i⟩; ⟨x_j, (B dSᵀ)_j⟩
  float* g;                             // [Q, Q]: dy xᵀ, then G
  const Element *x_rows, *x_across, *c_pairs, *dy_rows, *dy_pairs;
  Element *x_rows_memory, *x_across_memory, *c_pairs_memory, *dy_rows_memory, *dy_pairs_memory;
  Element *triangle_memory, *dstate_memory, *state_rows_memory, *state_across_memory;

 public:
  using Base::state_floats, Base::values_for;
  static int64_t longest_block(const Head& head, int64_t T) { return Base::longest_for(head.P, T); }

  ChunksGrad(const Head& head_, HeadGradRows& rows_, int64_t, Scratch& scratch)
      : Base(head_, rows_, scratch), rows(rows_) {
    float** const of_tokens[] = {&da, &direct, &read, &written};
    for (float** array : of_tokens) *array = scratch.floats(Q);
    g = scratch.floats(Q * Q);
    x_across_memory = elements(round_up(P, word) * Q, scratch);
    state_across_memory = elements(round_up(P, word) * states, scratch);
    Element** const of_values[] = {&x_rows_memory, &dy_rows_memory, &dy_pairs_memory};
    for (Element** array : of_values) *array = elements(kFloats ? 0 : Q * values, scratch);
    c_pairs_memory = elements(kFloats ? 0 : Q * states, scratch);
    triangle_memory = elements(kFloats ? 0 : Q * Q, scratch);
    dstate_memory = elements(kFloats ? 0 : round_up(N, word) * values, scratch);
    state_rows_memory = elements(kFloats ? 0 : N * values, scratch);
  }

  // From the state before the chunk to the state behind it.
  void forward(float* state) {
    Base::load_written();
    Base::carry_state(state);
  }

  // dstate is the gradient of the state behind the chunk and becomes that of the state before it; `fresh` says that the
  // state before it is zero because a document begins.
  void backward(const float* state, float* dstate, bool fresh) {
    Base::load_written();
    Base::load_read();
    load_gradients();
    mix();
    grad_x(dstate);
    if (rows.wants_y) Base::outputs(state);
    grad_c(state);
    grad_b(dstate);
    grad_steps(fresh ? 0 : Base::decay() * dot(state_floats(), dstate, state));
    if (fresh) return;
    weigh_rows(rows.length, values, rows.dy, from_entry, weighted);
    Base::carry(c_pairs, weighted, dstate);
  }

 private:
  void load_gradients() {
    x_rows = as_rows(rows.length, P, rows.x, values, x_rows_memory);
    x_across = as_transposed(rows.length, P, x_rows, values, across(), x_across_memory);
    c_pairs = as_pairs(rows.length, N, rows.c, states, c_pairs_memory);
    dy_rows = as_rows(rows.length, P, rows.dy, values, dy_rows_memory);
    dy_pairs = as_pairs(rows.length, P, rows.dy, values, dy_pairs_memory);
  }

  // G and M, in place of dy xᵀ and C Bᵀ, and the first terms of da and ddt.
  void mix() {
    Base::fill_lower(dy_rows, values, x_across, P, g);
    // direct[j] = Σ_{i >= k} H_ij / dt_j, from the last k to the first; times dt it is the term of da_k, summed over j < k
    for (int64_t j = 0; j < Q; j++) direct[j] = 0;
    for (int64_t k = rows.length - 1; k >= 0; k--) {
      Vec total{};
      for (int64_t j = 0; j < round_up(k + 1, kTriangleRows); j += kLanes) {
        float *g_row = g + k * Q + j, *m_row = m + k * Q + j;
        const auto lane = lane_numbers<Vec>() + static_cast<int>(j);
        const auto past = lane <= static_cast<int>(k);
        const Vec decay = Base::decays_of_row(k, j);
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

  const Element* triangle_pairs(const float* triangle) const {
    return as_pairs(rows.length, rows.length, triangle, Q, triangle_memory);
  }

  // dx, and what each token wrote into the state behind the chunk.
  void grad_x(const float* dstate) {
    const Element* from_state = as_pairs(N, P, dstate, values, dstate_memory);
    multiply(rows.length, P, N, b_rows, states, from_state, values, rows.dx, values);
    Vec skips{};
    for (int64_t j = 0; j < rows.length; j++) {
      float *dx = rows.dx + j * values, *x = rows.x + j * values, *dy = rows.dy + j * values;
      Vec products{};
      for_row(P, [&](auto at) {
        const Vec value = at.load(x), through_state = at.load(dx), dout = at.load(dy);
        products += value * through_state;
        skips += value * dout;
        at.store(dx, through_state * to_end[j] + dout * head.d);
      });
      written[j] = sum(products);
    }
    rows.dd += static_cast<double>(sum(skips));
    Base::add_upper(triangle_pairs(m), dy_pairs, P, values, rows.dx);
  }

  const Element* transpose_state(const float* state) const {
    return as_transposed(N, P, as_rows(N, P, state, values, state_rows_memory), values, states, state_across_memory);
  }

  // dC, and what each token read from the state before the chunk.
  void grad_c(const float* state) {
    const Element* across_state = transpose_state(state);
    multiply(rows.length, N, P, dy_rows, values, across_state, states, rows.dc, states);
    for (int64_t i = 0; i < rows.length; i++)
      read[i] = from_entry[i] * dot(N, rows.c + i * states, rows.dc + i * states);
    weigh_rows(rows.length, states, rows.dc, from_entry, rows.dc);
    Base::add_lower(Base::triangle_rows(g, triangle_memory), b_pairs, N, states, rows.dc);
  }

  void grad_b(const float* dstate) {
    const Element* across_state = transpose_state(dstate);
    multiply(rows.length, N, P, x_rows, values, across_state, states, rows.db, states);
    weigh_rows(rows.length, states, rows.db, to_end, rows.db);
    Base::add_upper(triangle_pairs(g), c_pairs, N, states, rows.db);
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
