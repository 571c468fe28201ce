// The gradient of the state-space scan (ssd.simd.cc): one task a head of a row, driven by ssd_grad.h.
#include "parallel.h"
#include "ssd.h"
#include "ssd_grad.h"

MOLT_SIMD_BEGIN

static inline void copy_rows(int64_t rows, int64_t width, const float* from, int64_t ld, float* to, int64_t ld_to) {
  for (int64_t t = 0; t < rows; t++) for_row(width, [&](auto at) { at.store(to + t * ld_to, at.load(from + t * ld)); });
}

// Rows of a head out of and into the tensors of the kernel.
struct ScanRows {
  const Scan& s;
  int64_t row, h;
  HeadGradRows& rows;
  const float* dy;
  float *dx, *ddt, *db, *dc;
  double *da_log, *dd;  // [B,H]

  void read(int64_t first, int64_t width, const float* from, float* to, int64_t ld) const {
    copy_rows(rows.length, width, from + s.at(row, first, h, width), s.H * width, to, ld);
  }
  void write(int64_t first, int64_t width, const float* from, int64_t ld, float* to) const {
    copy_rows(rows.length, width, from, ld, to + s.at(row, first, h, width), s.H * width);
  }

  void load_written(int64_t first, int64_t end) const {
    for (int64_t t = first; t < end; t++) rows.dt[t - first] = s.dt[s.at(row, t, h, 1)];
    read(first, s.P, s.x, rows.x, rows.values);
    read(first, s.N, s.b, rows.b, rows.states);
  }
  void load(int64_t first, int64_t end) const {
    load_written(first, end);
    read(first, s.N, s.c, rows.c, rows.states);
    read(first, s.P, dy, rows.dy, rows.values);
  }
  void store(int64_t first, int64_t end) const {
    for (int64_t t = first; t < end; t++) ddt[s.at(row, t, h, 1)] = rows.ddt[t - first];
    write(first, s.P, rows.dx, rows.values, dx);
    write(first, s.N, rows.db, rows.states, db);
    write(first, s.N, rows.dc, rows.states, dc);
  }
  void finish() const {
    da_log[row * s.H + h] = rows.da_log;
    dd[row * s.H + h] = rows.dd;
  }
};

// {dy, x, dt, aLog, b, c, d, start} → [dx, ddt, daLog, db, dc, dd]
static void ssd_scan_grad(const Call& call) {
  const Scan s = scan_of(call.in + 1);
  const float* dy = call.in[0].f32();
  float *dx = call.out[0].f32(), *ddt = call.out[1].f32(), *db = call.out[3].f32(), *dc = call.out[4].f32();
  float *da_log = call.out[2].f32(), *dd = call.out[5].f32();
  Scratch scratch;
  double *da_log_rows = scratch.doubles(s.B * s.H), *dd_rows = scratch.doubles(s.B * s.H);
  for_tasks(*call.pool, s.B * s.H, static_cast<double>(s.T) * grad_nanoseconds(s.P, s.N), [&](int64_t i) {
    const int64_t row = i / s.H, h = i % s.H;
    scan_head_grad<Floats>(s.head(h), s.T, s.start + row * s.T, [&](HeadGradRows& rows, int64_t, Scratch&) {
      return ScanRows{s, row, h, rows, dy, dx, ddt, db, dc, da_log_rows, dd_rows};
    });
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
