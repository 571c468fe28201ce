// The gradient of the state-space scan: small heads token by token (ssd_grad_steps.h), large ones in chunks of matrix
// products (ssd_grad_chunks.h). In both, every term of the decays' gradient is a sum of its own parts; the cheaper
// running difference of two large sums would cancel.
#include "parallel.h"
#include "ssd_grad_chunks.h"
#include "ssd_grad_steps.h"

MOLT_SIMD_BEGIN

// {dy, x, dt, aLog, b, c, d, start} → [dx, ddt, daLog, db, dc, dd]
static void ssd_scan_grad(const Call& call) {
  const Scan s = scan_of(call.in + 1);
  float *da_log = call.out[2].f32(), *dd = call.out[5].f32();
  Scratch scratch;
  double *da_log_rows = scratch.doubles(s.B * s.H), *dd_rows = scratch.doubles(s.B * s.H);
  int32_t* firsts = scratch.ints(s.B * (s.T + 1));
  int32_t* counts = scratch.ints(s.B);
  for (int64_t row = 0; row < s.B; row++) counts[row] = static_cast<int32_t>(cut_row(s, row, firsts + row * (s.T + 1)));
  const ScanGrad grad = {
      call.in[0].f32(), call.out[0].f32(), call.out[1].f32(), call.out[3].f32(), call.out[4].f32(), da_log_rows,
      dd_rows};
  const double nanoseconds = 20.0 * static_cast<double>(s.P * s.N) / (0.5 * kFlopPerNanosecond) + 40;  // a token
  for_tasks(*call.pool, s.B * s.H, static_cast<double>(s.T) * nanoseconds, [&](int64_t i) {
    const int64_t row = i / s.H, h = i % s.H;
    if (s.P > 2 * kLanes || s.P > 16) {
      scan_head_grad_chunks(s, row, h, grad, counts[row], firsts + row * (s.T + 1));
    } else if (s.P > kLanes) {
      scan_head_grad_steps<Vec, 2>(s, row, h, grad);
    } else {
      with_vector_for(s.P, [&](auto v) { scan_head_grad_steps<decltype(v), 1>(s, row, h, grad); });
    }
  });
  for (int64_t h = 0; h < s.H; h++) {
    double log_sum = 0, skip_sum = 0;
    for (int64_t row = 0; row < s.B; row++) {
      log_sum += da_log_rows[row * s.H + h];
      skip_sum += dd_rows[row * s.H + h];
    }
    da_log[h] = static_cast<float>(log_sum);
    dd[h] = static_cast<float>(skip_sum);
  }
}

MOLT_KERNEL("SsdScanGrad", ssd_scan_grad);

MOLT_SIMD_END
