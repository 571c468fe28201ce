// The gradient of the state-space scan for small heads, token by token from the last to the first:
//   dS_t = a_{t+1} dS_{t+1} + dy_t ⊗ C_t
//   dC_t = S_tᵀ dy_t;   dB_t = dS_tᵀ (dt_t x_t);   g_t = dS_t B_t;   dx_t = dt_t g_t + d dy_t
//   dlog a_t = a_t ⟨dS_t, S_{t−1}⟩;   ddt_t = ⟨x_t, g_t⟩ − rate dlog a_t
// The states S_t come from a forward sweep: all of them if they fit the cache, else those of one block of tokens at a
// time. For a head of one or two vectors this is about twice as fast as the chunked form (ssd_grad_chunks.h), whose
// matrix products are then too small to be worth their set-up.
#pragma once
#include "ssd_head.h"

MOLT_SIMD_BEGIN

// Floats of states kept at a time: a quarter of a megabyte.
constexpr int64_t kKeptStates = 65536;

// Sums of products over the lanes, collected until there is a vector of them. Where each sum goes is given with it.
template <class V>
struct LaneSums {
  static constexpr int lanes = lanes_of<V>;
  V products[lanes] = {};
  float* targets[lanes];
  int count = 0;

  void add(V product, float* target) {
    products[count] = product;
    targets[count++] = target;
    if (count == lanes) flush();
  }
  void flush() {
    alignas(64) float sums[lanes];
    store(sums, sum_each(products));
    for (int i = 0; i < count; i++) *targets[i] = sums[i];
    for (V& product : products) product = V{};
    count = 0;
  }
};

// A form of the gradient, as ssd_grad.h drives it; states lie as [N][Vectors].
template <class V, int Vectors>
class StepsGrad {
  static constexpr int lanes = lanes_of<V>;
  const Head& head;
  HeadGradRows& rows;
  float* decay;  // [longest block]
  V* states;     // before and after every token of a block

 public:
  static int64_t values_for(int64_t) { return Vectors * lanes; }
  static int64_t longest_block(const Head& head, int64_t T) {
    return larger(4, smaller(T, kKeptStates / (head.N * Vectors * lanes)));
  }

  StepsGrad(const Head& head_, HeadGradRows& rows_, int64_t longest, Scratch& scratch)
      : head(head_),
        rows(rows_),
        decay(scratch.floats(longest)),
        states(reinterpret_cast<V*>(scratch.floats((longest + 1) * state_floats()))) {}

  int64_t state_floats() const { return size() * lanes; }

  // From the state before the block to the state behind it.
  void forward(float* state) {
    decays();
    V* s = reinterpret_cast<V*>(state);
    for (int64_t t = 0; t < rows.length; t++) step(t, s, s);
  }

  // dstate is the gradient of the state behind the block and becomes that of the state before it.
  void backward(const float* state, float* dstate, bool) {
    decays();
    __builtin_memcpy(static_cast<void*>(states), state, size() * sizeof(V));
    for (int64_t t = 0; t < rows.length; t++) step(t, states + t * size(), states + (t + 1) * size());
    V* ds = reinterpret_cast<V*>(dstate);
    for (int64_t t = rows.length - 1; t >= 0; t--) {
      const V* before = states + t * size();
      const Scalars sums = step_back(t, before, before + size(), t + 1 < rows.length ? decay[t + 1] : 1, ds);
      const float dlog = decay[t] * sums.decay;
      rows.ddt[t] = sums.step - head.rate * dlog;
      rows.da_log -= static_cast<double>(head.rate * rows.dt[t] * dlog);
      rows.dd += static_cast<double>(sums.skip);
    }
    for (int64_t i = 0; i < size(); i++) ds[i] *= decay[0];
  }

 private:
  int64_t size() const { return head.N * Vectors; }

  void decays() {
    for_row(rows.length, [&](auto at) { at.store(decay, exp(at.load(rows.dt) * -head.rate)); });
  }

  // after = decay · before + dt_t x_t ⊗ B_t
  void step(int64_t t, const V* before, V* after) const {
    const float *x = rows.x + t * rows.values, *b = rows.b + t * rows.states;
    V scaled[Vectors];
    for (int i = 0; i < Vectors; i++) scaled[i] = load<V>(x + i * lanes) * rows.dt[t];
    for (int64_t n = 0; n < head.N; n++)
      for (int i = 0; i < Vectors; i++) after[n * Vectors + i] = before[n * Vectors + i] * decay[t] + scaled[i] * b[n];
  }

  struct Scalars {
    float decay, step, skip;  // ⟨dS_t, S_{t−1}⟩, ⟨x_t, g_t⟩, ⟨x_t, dy_t⟩
  };

  // One token; `next_decay` is how much of dS_{t+1}, which dstate holds, reaches this token.
  Scalars step_back(int64_t t, const V* before, const V* after, float next_decay, V* dstate) const {
    const float *x = rows.x + t * rows.values, *dy = rows.dy + t * rows.values;
    const float *b = rows.b + t * rows.states, *c = rows.c + t * rows.states;
    float *db = rows.db + t * rows.states, *dc = rows.dc + t * rows.states;
    V value[Vectors], scaled[Vectors], dout[Vectors], into_value[Vectors] = {}, out[Vectors] = {}, decay_product{};
    for (int i = 0; i < Vectors; i++) {
      value[i] = load<V>(x + i * lanes);
      scaled[i] = value[i] * rows.dt[t];
      dout[i] = load<V>(dy + i * lanes);
    }
    // dS_t of one state; returns its product with the scaled values, whose lanes sum to dB
    const auto write = [&](int64_t n) {
      V for_b{};
      for (int i = 0; i < Vectors; i++) {
        const int64_t at = n * Vectors + i;
        const V ds = dstate[at] * next_decay + dout[i] * c[n];
        dstate[at] = ds;
        into_value[i] += ds * b[n];
        decay_product += ds * before[at];
        for_b += ds * scaled[i];
      }
      return for_b;
    };
    const auto read = [&](int64_t n) {
      V for_c{};
      for (int i = 0; i < Vectors; i++) {
        for_c += after[n * Vectors + i] * dout[i];
        out[i] += after[n * Vectors + i] * c[n];
      }
      return for_c;
    };

    int64_t n = 0;
    for (; n + lanes <= head.N; n += lanes) {
      V products[lanes];
#pragma GCC unroll 16
      for (int j = 0; j < lanes; j++) products[j] = write(n + j);
      store(db + n, sum_each(products));
#pragma GCC unroll 16
      for (int j = 0; j < lanes; j++) products[j] = read(n + j);
      store(dc + n, sum_each(products));
    }
    Scalars scalars;
    LaneSums<V> rest;
    for (; n < head.N; n++) {
      rest.add(write(n), db + n);
      rest.add(read(n), dc + n);
    }
    V step_product{}, skip_product{};
    for (int i = 0; i < Vectors; i++) {
      store(rows.dx + t * rows.values + i * lanes, into_value[i] * rows.dt[t] + dout[i] * head.d);
      if (rows.wants_y) store(rows.y + t * rows.values + i * lanes, out[i] + value[i] * head.d);
      step_product += into_value[i] * value[i];
      skip_product += dout[i] * value[i];
    }
    rest.add(decay_product, &scalars.decay);
    rest.add(step_product, &scalars.step);
    rest.add(skip_product, &scalars.skip);
    rest.flush();
    return scalars;
  }
};

MOLT_SIMD_END
