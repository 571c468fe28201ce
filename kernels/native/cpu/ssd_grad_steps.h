// The gradient of the state-space scan (ssd.simd.cc) for small heads, token by token from the last to the first:
//   dS_t = a_{t+1} dS_{t+1} + dy_t ⊗ C_t
//   dC_t = S_tᵀ dy_t;   dB_t = dS_tᵀ (dt_t x_t);   g_t = dS_t B_t;   dx_t = dt_t g_t + d dy_t
//   dlog a_t = a_t ⟨dS_t, S_{t−1}⟩;   ddt_t = ⟨x_t, g_t⟩ − exp(aLog) dlog a_t
// The states S_t come from a forward sweep: all of them if they fit the cache, else those of one stretch of tokens at a
// time, recomputed from the state before the stretch. For a head of one or two vectors this is about twice as fast as
// the chunked form, whose matrix products are then too small to be worth their set-up.
#pragma once
#include "ssd.h"
#include "tile.h"

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

template <class V, int Vectors>
struct StepsGrad {
  static constexpr int lanes = lanes_of<V>;
  const Scan& s;
  int64_t row, h, N;
  Values<V> values;
  float *dt, *decay;

  // after = decay · before + dt_t x_t ⊗ B_t, states as [N][Vectors]
  void forward(int64_t t, const V* before, V* after) const {
    const float *x = s.x + s.at(row, t, h, s.P), *b = s.b + s.at(row, t, h, N);
    V scaled[Vectors];
    for (int i = 0; i < Vectors; i++) scaled[i] = values.load(x, i) * dt[t];
    for (int64_t n = 0; n < N; n++)
      for (int i = 0; i < Vectors; i++) after[n * Vectors + i] = before[n * Vectors + i] * decay[t] + scaled[i] * b[n];
  }

  struct Scalars {
    float decay, step, skip;  // ⟨dS_t, S_{t−1}⟩, ⟨x_t, g_t⟩, ⟨x_t, dy_t⟩
  };

  // One token; `next_decay` is how much of dS_{t+1}, which dstate holds, reaches this token.
  Scalars backward(int64_t t, const V* before, const V* after, float next_decay, V* dstate,
                   const ScanGrad& grad) const {
    const float *x = s.x + s.at(row, t, h, s.P), *dy = grad.dy + s.at(row, t, h, s.P);
    const float *b = s.b + s.at(row, t, h, N), *c = s.c + s.at(row, t, h, N);
    float *db = grad.db + s.at(row, t, h, N), *dc = grad.dc + s.at(row, t, h, N), *dx = grad.dx + s.at(row, t, h, s.P);
    V value[Vectors], scaled[Vectors], dout[Vectors], into_value[Vectors] = {}, decay_product{};
    for (int i = 0; i < Vectors; i++) {
      value[i] = values.load(x, i);
      scaled[i] = value[i] * dt[t];
      dout[i] = values.load(dy, i);
    }
    // dS_t of one state; returns its product with the scaled values, whose lanes sum to dB
    const auto step = [&](int64_t n) {
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
      for (int i = 0; i < Vectors; i++) for_c += after[n * Vectors + i] * dout[i];
      return for_c;
    };

    int64_t n = 0;
    for (; n + lanes <= N; n += lanes) {
      V products[lanes];
#pragma GCC unroll 16
      for (int j = 0; j < lanes; j++) products[j] = step(n + j);
      store(db + n, sum_each(products));
#pragma GCC unroll 16
      for (int j = 0; j < lanes; j++) products[j] = read(n + j);
      store(dc + n, sum_each(products));
    }
    Scalars scalars;
    LaneSums<V> rest;
    for (; n < N; n++) {
      rest.add(step(n), db + n);
      rest.add(read(n), dc + n);
    }
    V step_product{}, skip_product{};
    for (int i = 0; i < Vectors; i++) {
      values.store(dx, i, into_value[i] * dt[t] + dout[i] * s.d[h]);
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

template <class V, int Vectors>
static void scan_head_grad_steps(const Scan& s, int64_t row, int64_t h, const ScanGrad& grad) {
  const int64_t size = s.N * Vectors, floats = size * lanes_of<V>;
  const int64_t length = larger(4, smaller(s.T, kKeptStates / floats)), stretches = blocks_of(s.T, length);
  const float rate = rate_of(s, h);
  Scratch scratch;
  StepsGrad<V, Vectors> head{s, row, h, s.N, {s.P}, scratch.floats(s.T), scratch.floats(s.T)};
  steps_of_head(s, row, h, head.dt, head.decay);
  // Where a document begins, the state before it counts as zero: so does its decay, forwards and backwards.
  for (int64_t t = 0; t < s.T; t++)
    if (s.begins_document(row, t) || t == 0) head.decay[t] = 0;

  const auto states_array = [&](int64_t count) { return reinterpret_cast<V*>(scratch.floats(count * floats)); };
  V* entries = states_array(stretches);  // the state before each stretch
  V* states = states_array(length + 1);  // before and after each token of a stretch
  V* dstate = states_array(1);
  for (int64_t i = 0; i < size; i++) entries[i] = dstate[i] = V{};
  for (int64_t i = 0; i + 1 < stretches; i++) {
    const V* before = entries + i * size;
    V* after = entries + (i + 1) * size;
    for (int64_t t = i * length; t < (i + 1) * length; t++, before = after) head.forward(t, before, after);
  }

  double da_log = 0, dd = 0;
  for (int64_t i = stretches - 1; i >= 0; i--) {
    const int64_t first = i * length, end = smaller(s.T, first + length);
    __builtin_memcpy(static_cast<void*>(states), entries + i * size, size * sizeof(V));
    for (int64_t t = first; t < end; t++) head.forward(t, states + (t - first) * size, states + (t - first + 1) * size);
    for (int64_t t = end - 1; t >= first; t--) {
      const V* before = states + (t - first) * size;
      const float next_decay = t + 1 < s.T ? head.decay[t + 1] : 0;
      const auto sums = head.backward(t, before, before + size, next_decay, dstate, grad);
      const float dlog = head.decay[t] * sums.decay;
      grad.ddt[s.at(row, t, h, 1)] = sums.step - rate * dlog;
      da_log -= static_cast<double>(rate * head.dt[t] * dlog);
      dd += static_cast<double>(sums.skip);
    }
  }
  grad.da_log[row * s.H + h] = da_log;
  grad.dd[row * s.H + h] = dd;
}

MOLT_SIMD_END
