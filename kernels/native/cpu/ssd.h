// What the forward and the backward of the state-space scan share.
#pragma once
#include "vec.h"

MOLT_SIMD_BEGIN

struct Scan {
  int64_t B, T, H, P, N;
  const float *x, *dt, *a_log, *b, *c, *d;
  const int32_t* start;

  // Where token t of head h of row `row` begins in a [B,T,H,width] tensor.
  int64_t at(int64_t row, int64_t t, int64_t h, int64_t width) const { return ((row * T + t) * H + h) * width; }
  bool begins_document(int64_t row, int64_t t) const { return start[row * T + t] == t; }
};

// The inputs in the order of the kernels: x, dt, aLog, b, c, d, start.
static inline Scan scan_of(const Tensor* in) {
  const Tensor& x = in[0];
  return {x.dims[0],   x.dims[1],   x.dims[2],   x.dims[3],   in[3].last(), x.f32(),
          in[1].f32(), in[2].f32(), in[3].f32(), in[4].f32(), in[5].f32(),  in[6].i32()};
}

// exp(aLog): log a_t = −dt_t · rate.
static inline float rate_of(const Scan& s, int64_t h) { return exp(splat<FourVec>(s.a_log[h]))[0]; }

// Where the backward puts the gradients; daLog and dd of every row and head are summed over the rows afterwards.
struct ScanGrad {
  const float* dy;
  float *dx, *ddt, *db, *dc;
  double *da_log, *dd;  // [B,H]
};

// The P values of x, y, dx or dy of one token, as vectors V of which the last may be partial.
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

// Small P in small vectors, so that lanes are not wasted on padding.
template <class Body>
static inline void with_vector_for(int64_t P, Body&& body) {
  if (P <= 4) return body(FourVec{});
  if (P <= kLanes / 2) return body(HalfVec{});
  body(Vec{});
}

// dt and the decay of every token of one head, side by side instead of H apart.
static inline void steps_of_head(const Scan& s, int64_t row, int64_t h, float* dt, float* decay) {
  for (int64_t t = 0; t < s.T; t++) dt[t] = s.dt[s.at(row, t, h, 1)];
  const float rate = rate_of(s, h);
  for_row(s.T, [&](auto at) { at.store(decay, exp(at.load(dt) * -rate)); });
}

MOLT_SIMD_END
