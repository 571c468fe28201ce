// One head of the state-space scan on rows that lie side by side, as its kernels arrange them: what a head is, its rows,
// the recurrence, and how a row of tokens is cut into blocks.
#pragma once
#include "tile.h"

MOLT_SIMD_BEGIN

//   S_t = exp(−dt_t rate) S_{t−1} + dt_t x_t ⊗ B_t;   y_t = S_t C_t + d x_t
struct Head {
  int64_t P, N;  // values of x and y, states
  float rate, d;
};

static inline float rate_of(float a_log) { return exp(splat<FourVec>(a_log))[0]; }

// A stretch of tokens of one head. Rows of x and y are `values` floats apart, rows of B and C `states`; what lies behind P
// and N is zero in what the scan reads and anything in what it makes. There is room for a multiple of 16 tokens.
struct HeadRows {
  int64_t values, states;
  int64_t length = 0;
  float *dt, *x, *b, *c;  // read
  float* y;               // made

  HeadRows(int64_t longest, int64_t values_, int64_t states_, Scratch& scratch) : values(values_), states(states_) {
    dt = zeros(longest, 1, scratch);
    x = zeros(longest, values, scratch);
    b = zeros(longest, states, scratch);
    c = zeros(longest, states, scratch);
    y = scratch.floats(round_up(longest, 16) * values);
  }

 protected:
  static float* zeros(int64_t longest, int64_t width, Scratch& scratch) {
    const int64_t size = round_up(longest, 16) * width;
    float* array = scratch.floats(size);
    __builtin_memset(array, 0, size * sizeof(float));
    return array;
  }
};

// The same with the rows of the gradients, those of dy like those of y and so on.
struct HeadGradRows : HeadRows {
  float* dy;                   // read
  float *ddt, *dx, *db, *dc;   // made
  bool wants_y = false;        // whether y is made as well
  double da_log = 0, dd = 0;   // sums over all stretches

  HeadGradRows(int64_t longest, int64_t values_, int64_t states_, Scratch& scratch)
      : HeadRows(longest, values_, states_, scratch) {
    dy = zeros(longest, values, scratch);
    ddt = scratch.floats(round_up(longest, 16));
    dx = scratch.floats(round_up(longest, 16) * values);
    db = scratch.floats(round_up(longest, 16) * states);
    dc = scratch.floats(round_up(longest, 16) * states);
  }
};

// Small P in small vectors, so that lanes are not wasted on padding.
template <class Body>
static inline void with_vector_for(int64_t P, Body&& body) {
  if (P <= 4) return body(FourVec{});
  if (P <= kLanes / 2) return body(HalfVec{});
  body(Vec{});
}

// One token: next[N] = decay · state + value ⊗ B, for one vector of values; the rows of a state are `stride` vectors
// apart. Returns next · C.
template <class V>
static inline V advance(int64_t N, int64_t stride, const V* state, V* next, float decay, V value, const float* b,
                        const float* c) {
  V sums[4] = {};
  int64_t n = 0;
  for (; n + 4 <= N; n += 4) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
      const V s = state[(n + i) * stride] * decay + value * b[n + i];
      next[(n + i) * stride] = s;
      sums[i] += s * c[n + i];
    }
  }
  for (; n < N; n++) {
    const V s = state[n * stride] * decay + value * b[n];
    next[n * stride] = s;
    sums[0] += s * c[n];
  }
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// About what a token of a head costs.
static inline double recurrence_nanoseconds(int64_t P, int64_t N) {
  return 6.0 * static_cast<double>(N * round_up(P, 4)) / (0.5 * kFlopPerNanosecond) + 5;
}

// Cuts the T tokens of a row into blocks of at most `longest` that never cross the beginning of a document;
// firsts[i] is the first token of block i, firsts[count] = T. Returns the count.
static inline int64_t cut_row(int64_t T, const int32_t* start, int64_t longest, int32_t* firsts) {
  int64_t count = 0;
  for (int64_t t = 0; t < T; t++)
    if (t == 0 || t - firsts[count - 1] == longest || start[t] == t) firsts[count++] = static_cast<int32_t>(t);
  firsts[count] = static_cast<int32_t>(T);
  return count;
}

MOLT_SIMD_END
