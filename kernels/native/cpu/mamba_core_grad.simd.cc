// The gradient of a Mamba-2 mixer between its two projections (mamba_core.simd.cc), one task a head of a row. Only the
// kernel's inputs are needed: convolution, steps, states and y are computed again, a block of tokens at a time, first
// forwards for the states and then backwards. With o = gain ∘ y ∘ SiLU(z) and u the convolution before φ:
//   dy = do ∘ gain ∘ SiLU(z);   dz = do ∘ gain ∘ y ∘ SiLU'(z);   dgain = Σ do ∘ y ∘ SiLU(z)
//   dx, dB, dC, ddt, daLog, dd: the gradient of the scan (ssd_grad.h)
//   de = ddt σ(e + dtBias) = ddtBias of that token
//   du_t = (dx, dB or dC)_t ∘ φ'(u_t);   dprojected_t = Σ_d weight[3 − d] ∘ du_{t+d}
//   dweight[3 − d] = Σ_t du_t ∘ projected_{t−d};   dbias = Σ_t du_t
//
// levels: avx512bf16
#include "mamba_core.h"
#include "parallel.h"
#include "ssd_grad.h"

MOLT_SIMD_BEGIN

// Where a row of the batch puts its part of the gradients that all rows share.
struct RowSums {
  float* conv;                    // [kTaps + 1, C]: one row of sums for each tap, then one for the bias
  float* gain;                    // [HP]
  double *dt_bias, *a_log, *d;    // [H]
};

struct CoreGrad {
  const Mixer& m;
  const Tensor& dout;  // [B,T,HP], f32 or bf16
  Tensor& dprojected;  // stored like projected
  float* de;
};

// Rows of a head, out of and into the tensors of the kernel.
class CoreGradRows {
  const CoreGrad& g;
  const Mixer& m;
  const RowSums& sums;
  const int64_t row, h;
  HeadGradRows& rows;
  const RunRows raw_x, raw_b, raw_c;
  float *x_slope, *b_slope, *c_slope;  // φ' of the three runs
  float *x_ahead, *b_ahead, *c_ahead;  // du of the three tokens behind the block, [3, ld]
  float *gated, *gate_slope;           // do ∘ SiLU(z), do ∘ gain ∘ SiLU'(z)
  float* sigma;                        // σ(e + dtBias)
  double dt_bias_sum = 0;

 public:
  CoreGradRows(const CoreGrad& grad, const RowSums& row_sums, int64_t row_, int64_t head, HeadGradRows& head_rows,
            int64_t longest, Scratch& scratch)
      : g(grad),
        m(grad.m),
        sums(row_sums),
        row(row_),
        h(head),
        rows(head_rows),
        raw_x(m.x_of(h), longest, rows.values, scratch),
        raw_b(m.b_of(h), longest, rows.states, scratch),
        raw_c(m.c_of(h), longest, rows.states, scratch) {
    x_slope = scratch.floats(longest * rows.values);
    b_slope = scratch.floats(longest * rows.states);
    c_slope = scratch.floats(longest * rows.states);
    gated = scratch.floats(longest * rows.values);
    gate_slope = scratch.floats(longest * rows.values);
    sigma = scratch.floats(longest);
    rows.wants_y = true;
    const auto nothing_behind = [&](int64_t ld) {
      float* ahead = scratch.floats((kTaps - 1) * ld);
      __builtin_memset(ahead, 0, (kTaps - 1) * ld * sizeof(float));
      return ahead;
    };
    x_ahead = nothing_behind(rows.values);
    b_ahead = nothing_behind(rows.states);
    c_ahead = nothing_behind(rows.states);
  }

  void load_written(int64_t first, int64_t end) {
    raw_x.load(m, row, first, end);
    raw_b.load(m, row, first, end);
    convolve(m, row, raw_x, first, end, rows.x, nullptr);
    convolve(m, row, raw_b, first, end, rows.b, nullptr);
    load_steps(first, end);
  }

  void load(int64_t first, int64_t end) {
    raw_x.load(m, row, first, end);
    raw_b.load(m, row, first, end);
    raw_c.load(m, row, first, end);
    convolve(m, row, raw_x, first, end, rows.x, x_slope);
    convolve(m, row, raw_b, first, end, rows.b, b_slope);
    convolve(m, row, raw_c, first, end, rows.c, c_slope);
    load_steps(first, end);
    load_gates(first, end);
  }

  void store(int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++) {
      const float d = rows.ddt[t - first] * sigma[t - first];
      g.de[(row * m.T + t) * m.H + h] = d;
      dt_bias_sum += static_cast<double>(d);
    }
    gate_back(first, end);
    convolve_back(raw_x, first, end, rows.dx, x_slope, x_ahead);
    convolve_back(raw_b, first, end, rows.db, b_slope, b_ahead);
    convolve_back(raw_c, first, end, rows.dc, c_slope, c_ahead);
    store_columns(first, end, m.z_of(h), gate_slope, rows.values);
    store_run(first, end, raw_x, rows.dx);
    store_run(first, end, raw_b, rows.db);
    store_run(first, end, raw_c, rows.dc);
  }

  void finish() const {
    sums.dt_bias[h] = dt_bias_sum;
    sums.a_log[h] = rows.da_log;
    sums.d[h] = rows.dd;
  }

 private:
  void load_steps(int64_t first, int64_t end) {
    raw_steps(m, row, h, first, end, rows.dt);
    for_row(end - first, [&](auto at) {
      const Vec raw = at.load(rows.dt);
      at.store(sigma, sigmoid(raw));
      at.store(rows.dt, softplus(raw));
    });
  }

  void load_gates(int64_t first, int64_t end) {
    const Run columns = m.z_of(h);
    const float* gain = m.gain + columns.first;
    float *z = gate_slope, *dout = gated;  // in the places of what is made of them
    copy_columns(m.projected, row * m.T + first, end - first, columns, z, rows.values);
    copy_columns(g.dout, row * m.T + first, end - first, columns, dout, rows.values);
    for (int64_t t = 0; t < end - first; t++) {
      const int64_t here = t * rows.values;
      for_row(m.P, [&](auto at) {
        const Vec gate = at.load(z + here), sig = sigmoid(gate), d = at.load(dout + here), scale = at.load(gain);
        const Vec into_gated = d * gate * sig;
        at.store(gated + here, into_gated);
        at.store(rows.dy + here, into_gated * scale);
        at.store(gate_slope + here, d * scale * sig * (1.0f + gate * (1.0f - sig)));
      });
    }
  }

  // dz in place of gate_slope, and dgain.
  void gate_back(int64_t first, int64_t end) {
    float* total = sums.gain + m.z_of(h).first;
    for_row(m.P, [&](auto at) {
      Vec dgain{};
      for (int64_t t = 0; t < end - first; t++) {
        const Vec y = at.load(rows.y + t * rows.values);
        dgain += at.load(gated + t * rows.values) * y;
        at.store(gate_slope + t * rows.values, at.load(gate_slope + t * rows.values) * y);
      }
      at.store(total, at.load(total) + dgain);
    });
  }

  void store_columns(int64_t first, int64_t end, Run columns, const float* from, int64_t ld) {
    with_stored(g.dprojected, [&](auto* matrix) {
      auto* to = matrix + (row * m.T + first) * m.columns() + columns.first;
      for (int64_t t = first; t < end; t++, to += m.columns(), from += ld)
        for_row(columns.width, [&](auto at) { at.store(to, at.load(from)); });
    });
  }
  void store_run(int64_t first, int64_t end, const RunRows& raw, const float* from) {
    store_columns(first, end, {m.inner() + raw.run.first, raw.run.width}, from, raw.ld);
  }

  // Back through φ and the convolution of one run, from the last token to the first: du of later tokens is at hand.
  // In place: `gradient` becomes that of the raw columns.
  void convolve_back(const RunRows& in, int64_t first, int64_t end, float* gradient, const float* slope,
                     float* ahead) {
    const int64_t ld = in.ld;
    const float* weight = m.weight + in.run.first;
    const int32_t* start = m.start + row * m.T;
    float* totals = sums.conv + in.run.first;
    for_row(in.run.width, [&](auto at) {
      Vec taps[kTaps], later[kTaps - 1], dtaps[kTaps] = {}, dbias{};  // later[d]: du of the token d + 1 behind
      for (int d = 0; d < kTaps; d++) taps[d] = at.load(weight + d * m.channels());
      for (int d = 0; d < kTaps - 1; d++) later[d] = at.load(ahead + d * ld);
      for (int64_t t = end - 1; t >= first; t--) {
        const int64_t here = (t - first) * ld;
        const Vec x = at.load(in.rows() + here), du = at.load(gradient + here) * at.load(slope + here);
        at.store(gradient + here, taps[0] * du + taps[1] * later[0] + taps[2] * later[1] + taps[3] * later[2]);
        dbias += du;
        dtaps[0] += du * x;
        for (int d = 1; d < kTaps; d++) dtaps[d] += later[d - 1] * x;
        later[2] = later[1];
        later[1] = later[0];
        later[0] = du;
        // tokens of the document before see nothing of this one
        if (start[t] == t) later[0] = later[1] = later[2] = Vec{};
      }
      for (int d = 0; d < kTaps - 1; d++) at.store(ahead + d * ld, later[d]);
      for (int d = 0; d < kTaps; d++) {
        float* total = totals + d * m.channels();
        at.store(total, at.load(total) + dtaps[d]);
      }
      float* total = totals + kTaps * m.channels();
      at.store(total, at.load(total) + dbias);
    });
  }
};

// The rows of the batch added up in their order.
static void add_rows(int64_t B, int64_t width, const float* rows, float* sum) {
  for_row(width, [&](auto at) {
    Vec total = at.load(rows);
    for (int64_t row = 1; row < B; row++) total += at.load(rows + row * width);
    at.store(sum, total);
  });
}

static void add_rows(int64_t B, int64_t width, const double* rows, float* sum) {
  for (int64_t i = 0; i < width; i++) {
    double total = 0;
    for (int64_t row = 0; row < B; row++) total += rows[row * width + i];
    sum[i] = static_cast<float>(total);
  }
}

// {do[B,T,HP], projected[B,T,HP+C], e[B,T,H], convWeight[C,4], convBias[C], dtBias[H], aLog[H], d[H], gain[HP],
// start[B,T]} [P, N, s] → [dprojected (stored like projected), de, dconvWeight, dconvBias, ddtBias, daLog, dd, dgain]
static void mamba_core_grad(const Call& call) {
  Scratch scratch;
  const Mixer m = mixer_of(call.in + 1, call, scratch);
  const int64_t C = m.channels(), conv_sums = (kTaps + 1) * C;
  const CoreGrad grad{m, call.in[0], call.out[0], call.out[1].f32()};

  float *conv = scratch.floats(m.B * conv_sums), *gain = scratch.floats(m.B * m.inner());
  __builtin_memset(conv, 0, m.B * conv_sums * sizeof(float));
  __builtin_memset(gain, 0, m.B * m.inner() * sizeof(float));
  double *dt_bias = scratch.doubles(m.B * m.H), *a_log = scratch.doubles(m.B * m.H), *d = scratch.doubles(m.B * m.H);

  const double nanoseconds = grad_nanoseconds(m.P, m.N) + 4 * convolve_nanoseconds(m);
  for_tasks(*call.pool, m.B * m.H, static_cast<double>(m.T) * nanoseconds, [&](int64_t i) {
    const int64_t row = i / m.H, h = i % m.H;
    const RowSums sums = {conv + row * conv_sums, gain + row * m.inner(), dt_bias + row * m.H, a_log + row * m.H,
                          d + row * m.H};
    with_step(m, [&](auto step) {
      using Step = decltype(step);
      scan_head_grad<Step>(m.head(h), m.T, m.start + row * m.T, [&](HeadGradRows& rows, int64_t longest, Scratch& local) {
        return CoreGradRows(grad, sums, row, h, rows, longest, local);
      });
    });
  });

  float* totals = scratch.floats(conv_sums);
  add_rows(m.B, conv_sums, conv, totals);
  float *dweight = call.out[2].f32(), *dbias = call.out[3].f32();
  for (int64_t c = 0; c < C; c++) {
    for (int k = 0; k < kTaps; k++) dweight[c * kTaps + kTaps - 1 - k] = totals[k * C + c];
    dbias[c] = totals[kTaps * C + c];
  }
  add_rows(m.B, m.H, dt_bias, call.out[4].f32());
  add_rows(m.B, m.H, a_log, call.out[5].f32());
  add_rows(m.B, m.H, d, call.out[6].f32());
  add_rows(m.B, m.inner(), gain, call.out[7].f32());
}

MOLT_KERNEL("MambaCoreGrad", mamba_core_grad);

MOLT_SIMD_END
