// The state-space scan of one head in chunks of Q tokens, as matrix products. Chunks never cross the beginning of a
// document. With c the running sum of the log-decays inside a chunk and S the state before it:
//   E_i = exp(c_i),  F_j = exp(c_Q − c_j),  L_ij = exp(c_i − c_j) for i >= j, else 0,  M_ij = L_ij ⟨C_i, B_j⟩ dt_j
//   y = M x + E ∘ C Sᵀ + d x        S ← e^{c_Q} S + (dt ∘ F ∘ x)ᵀ B
// States lie as [N][values]: values in the lanes. `Step` is the arithmetic of the products (tile.h): floats, or pairs of
// bf16 with float sums. Steps, decays, states and what is stored between products are float either way.
//
// As the gradient needs the same pieces (ssd_grad_chunks.h), they are separate here.
#pragma once
#include "gemm_pack.h"
#include "ssd_head.h"

MOLT_SIMD_BEGIN

// Longer chunks cost more inside a chunk (Q² a product), shorter ones more between chunks (P·N a token).
constexpr int64_t kLongestChunk = 64;
// Rows of a triangle [Q, Q] at a time, to leave out what lies above its diagonal.
constexpr int64_t kTriangleRows = 16;

// to[rows, width] = from, each row times its weight.
static inline void weigh_rows(int64_t rows, int64_t width, const float* from, const float* weights, float* to) {
  for (int64_t t = 0; t < rows; t++)
    for_row(width, [&](auto at) { at.store(to + t * width, at.load(from + t * width) * weights[t]); });
}

template <class Step>
class Chunk {
 public:
  using Element = typename Step::Element;
  static constexpr int word = Step::kPerWord;
  static constexpr bool kFloats = is_same<Element, float>;
  static constexpr int64_t Q = kLongestChunk;

  const Head& head;
  HeadRows& rows;
  const int64_t P, N, values, states;

  float *sums, *log2_sums;             // [Q]: c, in units of 1 and of log 2
  float *from_entry, *left, *to_end;   // [Q]: E, F, dt ∘ F
  float* m;                                  // [Q, Q]: C Bᵀ, then M
  const Element *x_pairs, *b_pairs, *b_rows, *b_across, *c_rows, *m_rows;

  static int64_t values_for(int64_t P) { return round_up(P, kPad); }
  static int64_t longest_for(int64_t P, int64_t T) {
    return smaller(T, smaller(kLongestChunk, larger(16, round_up(P, 16))));
  }

  Chunk(const Head& head_, HeadRows& rows_, Scratch& scratch)
      : head(head_), rows(rows_), P(head_.P), N(head_.N), values(rows_.values), states(rows_.states) {
    float** const of_tokens[] = {&sums, &log2_sums, &from_entry, &left, &to_end};
    for (float** array : of_tokens) *array = scratch.floats(Q);
    m = scratch.floats(Q * Q);
    weighted = scratch.floats(Q * values);
    x_pairs_memory = elements(kFloats ? 0 : Q * values, scratch);
    b_pairs_memory = elements(kFloats ? 0 : Q * states, scratch);
    b_across_memory = elements(round_up(N, word) * Q, scratch);
    b_rows_memory = elements(kFloats ? 0 : Q * states, scratch);
    c_rows_memory = elements(kFloats ? 0 : Q * states, scratch);
    m_rows_memory = elements(kFloats ? 0 : Q * Q, scratch);
    weighted_memory = elements(kFloats ? 0 : Q * values, scratch);
    state_memory = elements(kFloats ? 0 : round_up(N, word) * values, scratch);
  }

  int64_t state_floats() const { return N * values; }
  float decay() const { return from_entry[rows.length - 1]; }  // e^{c_Q}
  // Distance of the columns of a transposed factor.
  int64_t across() const { return round_up(rows.length, kPad); }

  static Element* elements(int64_t count, Scratch& scratch) {
    return reinterpret_cast<Element*>(scratch.floats(blocks_of(count, word)));
  }

  // The three forms in which a matrix enters a product. With floats the first two are the matrix itself.
  //   rows: a left factor;   pairs: a right factor, or a left one transposed;   transposed: a right factor, from rows
  static const Element* as_rows(int64_t count, int64_t width, const float* from, int64_t ld, Element* to) {
    if constexpr (kFloats) return from;
    else return pack_rows<Step>(from, ld, count, width, to, ld), to;
  }
  static const Element* as_pairs(int64_t count, int64_t width, const float* from, int64_t ld, Element* to) {
    if constexpr (kFloats) return from;
    else return pack_panel<Step>(from, ld, count, width, ld, to), to;
  }
  static const Element* as_transposed(int64_t count, int64_t width, const Element* from_rows, int64_t ld, int64_t ld_to,
                                      Element* to) {
    pack_transposed_panel<Step>(from_rows, ld, width, count, ld_to, to);
    return to;
  }

  // to[count, columns] = or += left right, over `depth`
  template <Order order = Order::rows>
  static void multiply(int64_t count, int64_t columns, int64_t depth, const Element* left, int64_t ld_left,
                       const Element* right, int64_t ld_right, float* to, int64_t ld, bool add = false) {
    const int64_t ld_of_left = order == Order::rows ? ld_left : ld_left * word;
    product_of<Step, order>(count, columns, steps_of<Step>(depth), left, ld_of_left, right, ld_right * word, to, ld, add);
  }

  // to[length, columns] += triangle right, or triangleᵀ right; the triangle lies as rows or as pairs.
  void add_lower(const Element* triangle, const Element* right, int64_t columns, int64_t ld, float* to) const {
    for (int64_t i = 0; i < rows.length; i += kTriangleRows) {
      const int64_t count = smaller(kTriangleRows, rows.length - i);
      multiply(count, columns, i + count, triangle + i * Q, Q, right, ld, to + i * ld, ld, true);
    }
  }
  void add_upper(const Element* triangle, const Element* right, int64_t columns, int64_t ld, float* to) const {
    for (int64_t j = 0; j < rows.length; j += kTriangleRows) {
      const int64_t count = smaller(kTriangleRows, rows.length - j);
      multiply<Order::columns>(count, columns, rows.length - j, triangle + j * Q + j * word, Q, right + j * ld, ld,
                               to + j * ld, ld, true);
    }
  }
  // The lower triangle of left rightᵀ, in blocks.
  void fill_lower(const Element* left, int64_t ld_left, const Element* right_across, int64_t depth, float* to) const {
    for (int64_t i = 0; i < rows.length; i += kTriangleRows) {
      const int64_t count = smaller(kTriangleRows, rows.length - i);
      multiply(count, i + count, depth, left + i * ld_left, ld_left, right_across, across(), to + i * Q, Q);
    }
  }
  const Element* triangle_rows(const float* triangle, Element* to) const {
    if constexpr (kFloats) return triangle;
    for (int64_t i = 0; i < rows.length; i += kTriangleRows)
      pack_rows<Step>(triangle + i * Q, Q, smaller(kTriangleRows, rows.length - i), i + kTriangleRows, to + i * Q, Q);
    return to;
  }

  // Of the tokens in `rows`, what carries a state over them.
  void load_written() {
    float total = 0;
    for (int64_t i = 0; i < rows.length; i++) sums[i] = total -= rows.dt[i] * head.rate;
    for_row(rows.length, [&](auto at) {
      at.store(log2_sums, at.load(sums) * 1.44269504f);
      at.store(from_entry, exp(at.load(sums)));
      at.store(left, exp(total - at.load(sums)));
      at.store(to_end, at.load(rows.dt) * at.load(left));
    });
    b_pairs = as_pairs(rows.length, N, rows.b, states, b_pairs_memory);
  }

  // … and what makes y.
  void load_read() {
    x_pairs = as_pairs(rows.length, P, rows.x, values, x_pairs_memory);
    b_rows = as_rows(rows.length, N, rows.b, states, b_rows_memory);
    b_across = as_transposed(rows.length, N, b_rows, states, across(), b_across_memory);
    c_rows = as_rows(rows.length, N, rows.c, states, c_rows_memory);
    fill_lower(c_rows, states, b_across, N, m);
  }

  // From the state before the chunk to the state behind it.
  void carry_state(float* state) {
    weigh_rows(rows.length, values, rows.x, to_end, weighted);
    carry(b_pairs, weighted, state);
  }

  // state = e^{c_Q} state + factorᵀ weights
  void carry(const Element* factor_pairs, const float* weights, float* state) {
    for_row(state_floats(), [&](auto at) { at.store(state, at.load(state) * decay()); });
    const Element* right = as_pairs(rows.length, P, weights, values, weighted_memory);
    multiply<Order::columns>(N, P, rows.length, factor_pairs, states, right, values, state, values, true);
  }

  // L of row k for the columns from j on. Above the diagonal the exponent is positive and the result is to be dropped.
  Vec decays_of_row(int64_t k, int64_t j) const { return exp2_below_one(log2_sums[k] - load(log2_sums + j)); }

  // From C Bᵀ to M, for the forward pass alone.
  void mix() {
    for (int64_t k = 0; k < rows.length; k++) {
      for (int64_t j = 0; j < round_up(k + 1, kTriangleRows); j += kLanes) {
        float* at = m + k * Q + j;
        const auto past = lane_numbers<Vec>() + static_cast<int>(j) <= static_cast<int>(k);
        store(at, past ? decays_of_row(k, j) * load(at) * load(rows.dt + j) : Vec{});
      }
    }
  }

  // y, from M and the state before the chunk.
  void outputs(const float* state) {
    m_rows = triangle_rows(m, m_rows_memory);
    const Element* from_state = as_pairs(N, P, state, values, state_memory);
    multiply(rows.length, P, N, c_rows, states, from_state, values, rows.y, values);
    for (int64_t i = 0; i < rows.length; i++) {
      float* y = rows.y + i * values;
      for_row(P, [&](auto at) { at.store(y, at.load(y) * from_entry[i] + at.load(rows.x + i * values) * head.d); });
    }
    add_lower(m_rows, x_pairs, P, values, rows.y);
  }

 protected:
  float* weighted;  // [Q, values]
  Element *x_pairs_memory, *b_pairs_memory, *b_rows_memory, *b_across_memory, *c_rows_memory, *m_rows_memory;
  Element *weighted_memory, *state_memory;
};

MOLT_SIMD_END
