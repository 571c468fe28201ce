// The Mamba-2 state-space scan, one scalar decay a head:
//   S_t = a_t S_{t−1} + dt_t x_t ⊗ B_t,   a_t = exp(−dt_t exp(aLog));   y_t = S_t C_t + d x_t
// Where a document begins (start[t] = t), S_{t−1} counts as zero.
//
// On a CPU the plain recurrence does as much work as the chunked form when it is vectorised over the P values of x (see
// the note in bench/kernels.ts), so the forward is that: S[N][P] stays in the first-level cache, one task a head of a
// row. The backward walks chunks of tokens from the last to the first, recomputing the states of a chunk from the one at
// its entry; with dS_t = a_{t+1} dS_{t+1} + dy_t ⊗ C_t:
//   dC_t = S_tᵀ dy_t;   dB_t = dS_tᵀ (dt_t x_t);   g_t = dS_t B_t;   dx_t = dt_t g_t + d dy_t
//   dlog a_t = a_t ⟨dS_t, S_{t−1}⟩;   ddt_t = ⟨x_t, g_t⟩ − exp(aLog) dlog a_t
// The decay's gradient is taken as that product at every token, not as a running difference, which would cancel.
#include "parallel.h"
#include "tile.h"

MOLT_SIMD_BEGIN

struct Scan {
  int64_t B, T, H, P, N;
  const float *x, *dt, *a_log, *b, *c, *d;
  const int32_t* start;

  // Where token t of head h of row `row` begins in a [B,T,H,width] tensor.
  int64_t at(int64_t row, int64_t t, int64_t h, int64_t width) const { return ((row * T + t) * H + h) * width; }
};

static Scan scan_of(const Tensor* in) {
  const Tensor& x = in[0];
  return {x.dims[0],   x.dims[1],   x.dims[2],   x.dims[3],   in[3].last(), x.f32(),
          in[1].f32(), in[2].f32(), in[3].f32(), in[4].f32(), in[5].f32(),  in[6].i32()};
}

// dt and the decay of every token of one head, side by side instead of H apart.
static void steps_of_head(const Scan& s, int64_t row, int64_t h, float* dt, float* decay) {
  for (int64_t t = 0; t < s.T; t++) dt[t] = s.dt[s.at(row, t, h, 1)];
  const float rate = -exp(splat<FourVec>(s.a_log[h]))[0];
  for_row(s.T, [&](auto at) { at.store(decay, exp(at.load(dt) * rate)); });
}

// The P values of x, y, dx or dy of one token, as a row of vectors V of which the last may be partial.
template <class V>
struct Values {
  int64_t P;
  static constexpr int64_t lanes = lanes_of<V>;
  int64_t vectors() const { return (P + lanes - 1) / lanes; }
  V load(const float* from, int64_t i) const {
    return (i + 1) * lanes <= P ? molt::MOLT_LEVEL::load<V>(from + i * lanes) : load_part<V>(from + i * lanes, P - i * lanes);
  }
  void store(float* to, int64_t i, V v) const {
    if ((i + 1) * lanes <= P) {
      molt::MOLT_LEVEL::store(to + i * lanes, v);
    } else {
      store_part(to + i * lanes, v, P - i * lanes);
    }
  }
};

// One token: next[N] = decay · state + value ⊗ B, for one vector of values; the rows of a state are `stride` vectors
// apart. Returns next · C.
template <class V>
static inline V advance(int64_t N, int64_t stride, const V* state, V* next, float decay, V value, const float* b, const float* c) {
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

template <class V>
static void scan_head(const Scan& s, int64_t row, int64_t h, const float* state_in, float* y, float* state_out) {
  const Values<V> values{s.P};
  const int64_t vectors = values.vectors(), size = s.N * vectors;
  constexpr int64_t lanes = lanes_of<V>;
  Scratch scratch;
  float *dt = scratch.floats(s.T), *decay = scratch.floats(s.T);
  steps_of_head(s, row, h, dt, decay);
  float* memory = scratch.floats(size * lanes);  // [N, P padded]
  V* state = reinterpret_cast<V*>(memory);
  __builtin_memset(memory, 0, size * sizeof(V));
  if (state_in != nullptr) transpose(s.P, s.N, state_in, s.N, memory, vectors * lanes);

  const float d = s.d[h];
  for (int64_t t = 0; t < s.T; t++) {
    if (s.start[row * s.T + t] == t) __builtin_memset(memory, 0, size * sizeof(V));
    const float *x = s.x + s.at(row, t, h, s.P), *b = s.b + s.at(row, t, h, s.N), *c = s.c + s.at(row, t, h, s.N);
    for (int64_t i = 0; i < vectors; i++) {
      const V value = values.load(x, i);
      const V out = advance(s.N, vectors, state + i, state + i, decay[t], value * dt[t], b, c);
      values.store(y + s.at(row, t, h, s.P), i, out + value * d);
    }
  }
  transpose(s.N, s.P, memory, vectors * lanes, state_out, s.N);
}

// Small P in small vectors, so that lanes are not wasted on padding.
template <class Body>
static inline void with_vector_for(int64_t P, Body&& body) {
  if (P <= 4) return body(FourVec{});
  if (P <= kLanes / 2) return body(HalfVec{});
  body(Vec{});
}

static inline double nanoseconds_a_token(const Scan& s) {
  return 6.0 * static_cast<double>(s.N * round_up(s.P, 4)) / (0.5 * kFlopPerNanosecond) + 5;
}

// {x[B,T,H,P], dt[B,T,H], aLog[H], b[B,T,H,N], c[B,T,H,N], d[H], start[B,T], state[B,H,P,N]?} → [y[B,T,H,P], state[B,H,P,N]]
static void ssd_scan(const Call& call) {
  const Scan s = scan_of(call.in);
  float *y = call.out[0].f32(), *state_out = call.out[1].f32();
  const float* state_in = call.inputs > 7 ? call.in[7].f32() : nullptr;
  const int64_t size = s.P * s.N;
  for_tasks(*call.pool, s.B * s.H, static_cast<double>(s.T) * nanoseconds_a_token(s), [&](int64_t i) {
    with_vector_for(s.P, [&](auto v) {
      scan_head<decltype(v)>(s, i / s.H, i % s.H, state_in == nullptr ? nullptr : state_in + i * size, y, state_out + i * size);
    });
  });
}

struct ScanGrad {
  const float* dy;
  float *dx, *ddt, *db, *dc;
  double *da_log, *dd;  // [B,H]: summed over the rows afterwards
};

// The states of how many tokens are kept at a time: what fits the second-level cache.
static inline int64_t chunk_length(int64_t state_floats) {
  return larger(4, smaller(64, 32768 / state_floats));
}

template <class V>
static void scan_head_grad(const Scan& s, int64_t row, int64_t h, const ScanGrad& grad) {
  const Values<V> values{s.P};
  constexpr int64_t lanes = lanes_of<V>;
  const int64_t vectors = values.vectors(), size = s.N * vectors, N = s.N;
  const int64_t length = chunk_length(size * lanes), chunks = blocks_of(s.T, length);
  const int32_t* start = s.start + row * s.T;
  const float d = s.d[h];
  const float rate = exp(splat<FourVec>(s.a_log[h]))[0];

  Scratch scratch;
  float *dt = scratch.floats(s.T), *decay = scratch.floats(s.T);
  steps_of_head(s, row, h, dt, decay);
  // Where a document begins, the state before it counts as zero: so does its decay, forwards and backwards.
  for (int64_t t = 0; t < s.T; t++)
    if (start[t] == t || t == 0) decay[t] = 0;

  V* entries = reinterpret_cast<V*>(scratch.floats(chunks * size * lanes));      // state before each chunk
  V* states = reinterpret_cast<V*>(scratch.floats((length + 1) * size * lanes)); // before and after each token of a chunk
  V* dstate = reinterpret_cast<V*>(scratch.floats(size * lanes));
  const int64_t sums = round_up(2 * N + 3, lanes);
  V* products = reinterpret_cast<V*>(scratch.floats(sums * lanes));  // to be summed over their lanes: dB, dC, three scalars
  float* totals = scratch.floats(sums);

  const auto forward = [&](int64_t t, const V* before, V* after) {
    const float *x = s.x + s.at(row, t, h, s.P), *b = s.b + s.at(row, t, h, N);
    for (int64_t i = 0; i < vectors; i++) {
      const V value = values.load(x, i) * dt[t];
      for (int64_t n = 0; n < N; n++) after[n * vectors + i] = before[n * vectors + i] * decay[t] + value * b[n];
    }
  };
  __builtin_memset(static_cast<void*>(entries), 0, size * sizeof(V));
  for (int64_t chunk = 0; chunk + 1 < chunks; chunk++) {
    const V* before = entries + chunk * size;
    V* after = entries + (chunk + 1) * size;
    for (int64_t t = chunk * length; t < (chunk + 1) * length; t++, before = after) forward(t, before, after);
  }

  __builtin_memset(static_cast<void*>(dstate), 0, size * sizeof(V));
  __builtin_memset(static_cast<void*>(products), 0, sums * sizeof(V));
  double da_log = 0, dd = 0;
  for (int64_t chunk = chunks - 1; chunk >= 0; chunk--) {
    const int64_t first = chunk * length, end = smaller(s.T, first + length);
    __builtin_memcpy(static_cast<void*>(states), entries + chunk * size, size * sizeof(V));
    for (int64_t t = first; t < end; t++) forward(t, states + (t - first) * size, states + (t - first + 1) * size);

    for (int64_t t = end - 1; t >= first; t--) {
      const float *x = s.x + s.at(row, t, h, s.P), *dy = grad.dy + s.at(row, t, h, s.P);
      const float *b = s.b + s.at(row, t, h, N), *c = s.c + s.at(row, t, h, N);
      float* dx = grad.dx + s.at(row, t, h, s.P);
      const V *before = states + (t - first) * size, *after = before + size;
      // how much of this token's dS reaches the one before is applied there
      const float next_decay = t + 1 < s.T ? decay[t + 1] : 0;
      V decay_product{}, step_product{}, skip_product{};
      for (int64_t i = 0; i < vectors; i++) {
        const V value = values.load(x, i), dout = values.load(dy, i), scaled = value * dt[t];
        V into_value{};  // (dS_t B_t) of these values
        for (int64_t n = 0; n < N; n++) {
          const int64_t at = n * vectors + i;
          const V ds = dstate[at] * next_decay + dout * c[n];
          dstate[at] = ds;
          into_value += ds * b[n];
          decay_product += ds * before[at];
          products[n] = i == 0 ? ds * scaled : products[n] + ds * scaled;
          products[N + n] = i == 0 ? after[at] * dout : products[N + n] + after[at] * dout;
        }
        values.store(dx, i, into_value * dt[t] + dout * d);
        step_product += into_value * value;
        skip_product += dout * value;
      }
      products[2 * N] = decay_product;
      products[2 * N + 1] = step_product;
      products[2 * N + 2] = skip_product;
      for (int64_t j = 0; j < sums; j += lanes) {
        V square[lanes];
        __builtin_memcpy(&square, products + j, sizeof square);
        store(totals + j, sum_each(square));
      }
      __builtin_memcpy(grad.db + s.at(row, t, h, N), totals, N * sizeof(float));
      __builtin_memcpy(grad.dc + s.at(row, t, h, N), totals + N, N * sizeof(float));
      const float dlog = decay[t] * totals[2 * N];
      grad.ddt[s.at(row, t, h, 1)] = totals[2 * N + 1] - rate * dlog;
      da_log -= static_cast<double>(rate * dt[t] * dlog);
      dd += static_cast<double>(totals[2 * N + 2]);
    }
  }
  grad.da_log[row * s.H + h] = da_log;
  grad.dd[row * s.H + h] = dd;
}

// {dy, x, dt, aLog, b, c, d, start} → [dx, ddt, daLog, db, dc, dd]
static void ssd_scan_grad(const Call& call) {
  const Scan s = scan_of(call.in + 1);
  float *da_log = call.out[2].f32(), *dd = call.out[5].f32();
  Scratch scratch;
  double *da_log_rows = scratch.doubles(s.B * s.H), *dd_rows = scratch.doubles(s.B * s.H);
  const ScanGrad grad = {call.in[0].f32(),  call.out[0].f32(), call.out[1].f32(), call.out[3].f32(),
                         call.out[4].f32(), da_log_rows,       dd_rows};
  for_tasks(*call.pool, s.B * s.H, 4 * static_cast<double>(s.T) * nanoseconds_a_token(s), [&](int64_t i) {
    with_vector_for(s.P, [&](auto v) { scan_head_grad<decltype(v)>(s, i / s.H, i % s.H, grad); });
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

MOLT_KERNEL("SsdScan", ssd_scan);
MOLT_KERNEL("SsdScanGrad", ssd_scan_grad);

MOLT_SIMD_END
