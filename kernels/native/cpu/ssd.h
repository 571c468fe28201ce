// The tensors of the scan's own kernels, SsdScan and SsdScanGrad.
#pragma once
#include "ssd_head.h"

MOLT_SIMD_BEGIN

struct Scan {
  int64_t B, T, H, P, N;
  const float *x, *dt, *a_log, *b, *c, *d;
  const int32_t* start;

  // Where token t of head h of row `row` begins in a [B,T,H,width] tensor.
  int64_t at(int64_t row, int64_t t, int64_t h, int64_t width) const { return ((row * T + t) * H + h) * width; }
  Head head(int64_t h) const { return {P, N, rate_of(a_log[h]), d[h]}; }
};

// The inputs in the order of the kernels: x, dt, aLog, b, c, d, start.
static inline Scan scan_of(const Tensor* in) {
  const Tensor& x = in[0];
  return {x.dims[0],   x.dims[1],   x.dims[2],   x.dims[3],   in[3].last(), x.f32(),
          in[1].f32(), in[2].f32(), in[3].f32(), in[4].f32(), in[5].f32(),  in[6].i32()};
}

MOLT_SIMD_END
