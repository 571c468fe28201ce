// Causal attention with grouped queries, in blocks, so that no [T,S] matrix is ever stored (the flash form): the forward
// keeps a running maximum and sum per query, and saves the log-sum-exp of its scores; the backward recomputes the
// probabilities from that.
//
// Query t sits at key S − T + t and sees the keys from `start[t]` up to itself, at most `window` of them. Head h uses
// key-value head h / (H / G). Heads are first copied out of the [B,T,H,d] tensors, rows padded for the tile.
#include "parallel.h"
#include "tile.h"

MOLT_SIMD_BEGIN

constexpr int64_t kQueries = 32;  // rows of a block of scores
constexpr int64_t kKeys = 128;    // its columns: 16 KB of float

struct Attention {
  int64_t B, T, S, H, G, d, padded, keys;  // padded: d rounded up to kPad; keys: S rounded up to kPad
  float scale;
  int64_t window;
  const int32_t* start;

  // The keys that query t of row b sees: [first, end).
  int64_t first_key(int64_t b, int64_t t) const {
    const int64_t first = larger(0, start[b * T + t]);
    return window > 0 ? larger(first, end_key(t) - window) : first;
  }
  int64_t end_key(int64_t t) const { return S - T + t + 1; }
  int64_t group_of(int64_t h) const { return h / (H / G); }
};

static Attention attention_of(const Call& call, const Tensor& q, const Tensor& k, const Tensor& start) {
  const int64_t d = q.last();
  return {q.dims[0], q.dims[1], k.dims[1], q.dims[2], k.dims[2], d, round_up(d, kPad), round_up(k.dims[1], kPad),
          call.attr_f32(0), call.attr_int(1), start.i32()};
}

// Head `head` of row b of a [B,length,heads,d] tensor.
static inline const float* head_of(const Tensor& x, int64_t b, int64_t head) {
  return x.f32() + (b * x.dims[1] * x.dims[2] + head) * x.dims[3];
}
static inline float* head_of(Tensor& x, int64_t b, int64_t head) {
  return x.f32() + (b * x.dims[1] * x.dims[2] + head) * x.dims[3];
}

// to[length, d] = one head; what lies between d and ld_to is padding and becomes zero.
static inline void copy_head(int64_t length, int64_t d, const float* from, int64_t ld, float* to, int64_t ld_to) {
  for (int64_t t = 0; t < length; t++) {
    for_row(d, [&](auto at) { at.store(to + t * ld_to, at.load(from + t * ld)); });
    for (int64_t i = d; i < ld_to; i++) to[t * ld_to + i] = 0;
  }
}

// to[d, padded length] = one head, transposed.
static inline void transpose_head(int64_t length, int64_t d, const float* from, int64_t ld, float* to, int64_t padded) {
  transpose(length, d, from, ld, to, padded);
  for (int64_t i = 0; i < d; i++)
    for (int64_t t = length; t < padded; t++) to[i * padded + t] = 0;
}

// A block of queries against all the keys that any of them sees: body(first key, number of keys) for each block of keys.
template <class Body>
static inline void for_key_blocks(const Attention& a, int64_t b, int64_t q0, int64_t queries, Body&& body) {
  int64_t first = a.S;
  for (int64_t t = q0; t < q0 + queries; t++) first = smaller(first, a.first_key(b, t));
  const int64_t end = a.end_key(q0 + queries - 1);
  for (int64_t j = first / kPad * kPad; j < end; j += kKeys) body(j, smaller(kKeys, end - j));
}

// Calls body(AllSeen or SomeSeen) for each vector of one query's row of a block: the block begins at key j0, the query sees the
// keys [first, end). SomeSeen is a vector at an edge, of which only some lanes count.
struct AllSeen {
  int64_t at;
  Vec keep(Vec v, float) const { return v; }
};
struct SomeSeen {
  int64_t at;
  int first, end;
  Vec keep(Vec v, float neutral) const {
    const auto lane = lane_numbers<Vec>();
    return (lane >= first) & (lane < end) ? v : splat(neutral);
  }
};

template <class Body>
static inline void for_seen(int64_t keys, int64_t j0, int64_t first, int64_t end, Body&& body) {
  first -= j0;
  end -= j0;
  for (int64_t j = 0; j < keys; j += kLanes) {
    if (j >= first && j + kLanes <= end) {
      body(AllSeen{j});
    } else {
      body(SomeSeen{j, static_cast<int>(first - j), static_cast<int>(end - j)});
    }
  }
}

// to[rows, padded] = scale · q, a block of queries.
static inline void copy_scaled(int64_t rows, int64_t d, const float* from, int64_t ld, float scale, float* to, int64_t ld_to) {
  for (int64_t t = 0; t < rows; t++) {
    for_row(d, [&](auto at) { at.store(to + t * ld_to, at.load(from + t * ld) * scale); });
    for (int64_t i = d; i < ld_to; i++) to[t * ld_to + i] = 0;
  }
}

// One block of queries of one head.
static void attend(const Attention& a, int64_t b, int64_t q0, int64_t queries, const float* q, int64_t ldq,
                   const float* keys_dS, const float* values, float* o, int64_t ldo, float* lse) {
  Scratch scratch;
  float* scores = scratch.floats(kQueries * kKeys);
  float* sums = scratch.floats(kQueries * a.padded);
  float* scaled = scratch.floats(kQueries * a.padded);
  float maximum[kQueries];
  Vec total[kQueries];
  const float lowest = -__builtin_inff();
  for (int64_t i = 0; i < queries; i++) {
    maximum[i] = lowest;
    total[i] = Vec{};
  }
  __builtin_memset(sums, 0, kQueries * a.padded * sizeof(float));

  copy_scaled(queries, a.d, q, ldq, a.scale, scaled, a.padded);
  for_key_blocks(a, b, q0, queries, [&](int64_t j0, int64_t keys) {
    product(queries, keys, a.d, scaled, a.padded, keys_dS + j0, a.keys, scores, kKeys);
    for (int64_t i = 0; i < queries; i++) {
      const int64_t first = a.first_key(b, q0 + i), end = a.end_key(q0 + i);
      float* row = scores + i * kKeys;
      Vec highest = splat(lowest);
      for_seen(keys, j0, first, end, [&](auto seen) { highest = max(highest, seen.keep(load(row + seen.at), lowest)); });
      const float block_maximum = max_lane(highest);
      if (block_maximum > maximum[i]) {
        const float shrink = exp(splat<FourVec>(maximum[i] - block_maximum))[0];
        maximum[i] = block_maximum;
        total[i] *= shrink;
        for (int64_t c = 0; c < a.padded; c++) sums[i * a.padded + c] *= shrink;
      }
      // a row that has seen nothing so far has no maximum to subtract: its lanes are all dropped
      const float reference = maximum[i] == lowest ? 0 : maximum[i];
      for_seen(keys, j0, first, end, [&](auto seen) {
        const Vec p = seen.keep(exp_below_one(load(row + seen.at) - reference), 0);
        total[i] += p;
        store(row + seen.at, p);
      });
    }
    product(queries, a.d, keys, scores, kKeys, values + j0 * a.padded, a.padded, sums, a.padded, true);
  });

  for (int64_t i = 0; i < queries; i++) {
    const float all = sum(total[i]), inverse = all > 0 ? 1.0f / all : 0;
    for_row(a.d, [&](auto at) { at.store(o + i * ldo, at.load(sums + i * a.padded) * inverse); });
    lse[i] = maximum[i] + __builtin_logf(all);
  }
}

// One query of one head without copies, for a decode: copying all keys would cost as much as reading them.
static void attend_one(const Attention& a, int64_t b, int64_t t, const float* q, const float* k, const float* v, int64_t ld,
                       float* o, float* lse) {
  const int64_t first = a.first_key(b, t), keys = a.end_key(t) - first;
  Scratch scratch;
  float* p = scratch.floats(larger(keys, 0));
  float maximum = -__builtin_inff();
  for (int64_t j = 0; j < keys; j++) {
    Vec products{};
    for_row(a.d, [&](auto at) { products += at.load(q) * at.load(k + (first + j) * ld); });
    p[j] = sum(products) * a.scale;
    maximum = p[j] > maximum ? p[j] : maximum;
  }
  Vec total{};
  for_row(keys, [&](auto at) {
    const Vec e = at.keep(exp_below_one(at.load(p) - maximum), 0);
    total += e;
    at.store(p, e);
  });
  const float all = sum(total), inverse = all > 0 ? 1.0f / all : 0;
  for_row(a.d, [&](auto at) {
    Vec mean{};
    for (int64_t j = 0; j < keys; j++) mean += p[j] * at.load(v + (first + j) * ld);
    at.store(o, mean * inverse);
  });
  *lse = maximum + __builtin_logf(all);
}

// About what one query of one head costs when it sees half of the keys.
static inline double nanoseconds_a_query(const Attention& a) {
  return static_cast<double>(a.S) * (2.0 * static_cast<double>(a.d) / kFlopPerNanosecond + 0.1);
}

// {q[B,T,H,d], k[B,S,G,d], v[B,S,G,d], start[B,T]} [scale, window] → [o[B,T,H,d], lse[B,H,T]]
static void attention(const Call& call) {
  const Tensor &q = call.in[0], &k = call.in[1], &v = call.in[2];
  Tensor& o = call.out[0];
  float* lse = call.out[1].f32();
  const Attention a = attention_of(call, q, k, call.in[3]);

  if (a.T <= 4) {
    for_tasks(*call.pool, a.B * a.H * a.T, 2 * nanoseconds_a_query(a), [&](int64_t i) {
      const int64_t b = i / (a.H * a.T), h = i / a.T % a.H, t = i % a.T, g = a.group_of(h);
      attend_one(a, b, t, head_of(q, b, h) + t * a.H * a.d, head_of(k, b, g), head_of(v, b, g), a.G * a.d,
                 head_of(o, b, h) + t * a.H * a.d, lse + i);
    });
    return;
  }

  Scratch scratch;
  float* keys = scratch.floats(a.B * a.G * a.d * a.keys);         // [B,G][d, S]
  float* values = scratch.floats(a.B * a.G * a.S * a.padded);     // [B,G][S, d]
  for_tasks(*call.pool, a.B * a.G, 0.6 * static_cast<double>(a.S * a.d), [&](int64_t i) {
    const int64_t b = i / a.G, g = i % a.G;
    transpose_head(a.S, a.d, head_of(k, b, g), a.G * a.d, keys + i * a.d * a.keys, a.keys);
    copy_head(a.S, a.d, head_of(v, b, g), a.G * a.d, values + i * a.S * a.padded, a.padded);
  });
  const int64_t blocks = blocks_of(a.T, kQueries);
  for_tasks(*call.pool, a.B * a.H * blocks, kQueries * nanoseconds_a_query(a), [&](int64_t i) {
    const int64_t b = i / (a.H * blocks), h = i / blocks % a.H, q0 = i % blocks * kQueries;
    const int64_t group = b * a.G + a.group_of(h);
    attend(a, b, q0, smaller(kQueries, a.T - q0), head_of(q, b, h) + q0 * a.H * a.d, a.H * a.d, keys + group * a.d * a.keys,
           values + group * a.S * a.padded, head_of(o, b, h) + q0 * a.H * a.d, a.H * a.d, lse + (b * a.H + h) * a.T + q0);
  });
}

// Gradients of one head into dq / scale, dk, dv [T, padded], which start at zero. With p = exp(score − lse), Δ = ⟨do, o⟩:
//   dv_j += Σ_i p_ij do_i;   ds = p ∘ (do·vᵀ − Δ);   dk_j += Σ_i ds_ij scale q_i;   dq_i += scale Σ_j ds_ij k_j
struct HeadGrad {
  const float *q, *k, *dout;            // [T, padded]; q comes times the scale
  const float *keys_dT, *values_dT;     // [d, T padded]
  const float *delta, *lse;             // [T]
  float *dq, *dk, *dv;                  // [T, padded]
};

static void attend_grad(const Attention& a, int64_t b, const HeadGrad& head) {
  Scratch scratch;
  float* p = scratch.floats(kQueries * kKeys);
  float* ds = scratch.floats(kQueries * kKeys);
  const int64_t ld = a.padded;
  for (int64_t q0 = 0; q0 < a.T; q0 += kQueries) {
    const int64_t queries = smaller(kQueries, a.T - q0);
    const float *q = head.q + q0 * ld, *dout = head.dout + q0 * ld;
    for_key_blocks(a, b, q0, queries, [&](int64_t j0, int64_t keys) {
      product(queries, keys, a.d, q, ld, head.keys_dT + j0, a.keys, p, kKeys);
      product(queries, keys, a.d, dout, ld, head.values_dT + j0, a.keys, ds, kKeys);
      for (int64_t i = 0; i < queries; i++) {
        const int64_t first = a.first_key(b, q0 + i), end = a.end_key(q0 + i);
        const float lse = head.lse[q0 + i], delta = head.delta[q0 + i];
        for_seen(keys, j0, first, end, [&](auto seen) {
          const int64_t at = i * kKeys + seen.at;
          const Vec kept = seen.keep(exp_below_one(load(p + at) - lse), 0);
          store(p + at, kept);
          store(ds + at, kept * (load(ds + at) - delta));
        });
      }
      product<Order::columns>(keys, a.d, queries, p, kKeys, dout, ld, head.dv + j0 * ld, ld, true);
      product<Order::columns>(keys, a.d, queries, ds, kKeys, q, ld, head.dk + j0 * ld, ld, true);
      product(queries, a.d, keys, ds, kKeys, head.k + j0 * ld, ld, head.dq + q0 * ld, ld, true);
    });
  }
}

// {do, q, k, v, o, lse, start} [scale, window] → [dq, dk, dv], for S = T
static void attention_grad(const Call& call) {
  const Tensor &dout = call.in[0], &q = call.in[1], &k = call.in[2], &v = call.in[3], &o = call.in[4];
  const float* lse = call.in[5].f32();
  Tensor &dq = call.out[0], &dk = call.out[1], &dv = call.out[2];
  const Attention a = attention_of(call, q, k, call.in[6]);
  const int64_t whole = a.T * a.padded;

  Scratch scratch;
  float* keys = scratch.floats(a.B * a.G * whole);                  // [B,G][T, d]
  float* keys_dT = scratch.floats(a.B * a.G * a.d * a.keys);        // [B,G][d, T]
  float* values_dT = scratch.floats(a.B * a.G * a.d * a.keys);
  float* dkeys = scratch.floats(a.B * a.H * whole);                 // [B,H][T, d]: summed over the heads of a group below
  float* dvalues = scratch.floats(a.B * a.H * whole);
  for_tasks(*call.pool, a.B * a.G, static_cast<double>(a.T * a.d), [&](int64_t i) {
    const int64_t b = i / a.G, g = i % a.G;
    copy_head(a.T, a.d, head_of(k, b, g), a.G * a.d, keys + i * whole, a.padded);
    transpose_head(a.T, a.d, head_of(k, b, g), a.G * a.d, keys_dT + i * a.d * a.keys, a.keys);
    transpose_head(a.T, a.d, head_of(v, b, g), a.G * a.d, values_dT + i * a.d * a.keys, a.keys);
  });

  for_tasks(*call.pool, a.B * a.H, static_cast<double>(a.T) * 2.5 * nanoseconds_a_query(a), [&](int64_t i) {
    const int64_t b = i / a.H, h = i % a.H, group = b * a.G + a.group_of(h), ld = a.H * a.d;
    Scratch local;
    float* queries = local.floats(whole);
    float* douts = local.floats(whole);
    float* dqueries = local.floats(whole);
    float* delta = local.floats(a.T);
    copy_scaled(a.T, a.d, head_of(q, b, h), ld, a.scale, queries, a.padded);
    copy_head(a.T, a.d, head_of(dout, b, h), ld, douts, a.padded);
    for (int64_t t = 0; t < a.T; t++) {
      Vec products{};
      for_row(a.d, [&](auto at) { products += at.load(head_of(dout, b, h) + t * ld) * at.load(head_of(o, b, h) + t * ld); });
      delta[t] = sum(products);
    }
    __builtin_memset(dqueries, 0, whole * sizeof(float));
    __builtin_memset(dkeys + i * whole, 0, whole * sizeof(float));
    __builtin_memset(dvalues + i * whole, 0, whole * sizeof(float));
    attend_grad(a, b, {queries, keys + group * whole, douts, keys_dT + group * a.d * a.keys, values_dT + group * a.d * a.keys, delta,
                       lse + i * a.T, dqueries, dkeys + i * whole, dvalues + i * whole});
    for (int64_t t = 0; t < a.T; t++)
      for_row(a.d, [&](auto at) { at.store(head_of(dq, b, h) + t * ld, at.load(dqueries + t * a.padded) * a.scale); });
  });

  const int64_t repeat = a.H / a.G;
  for_tasks(*call.pool, a.B * a.G, 0.3 * static_cast<double>(repeat * a.T * a.d), [&](int64_t i) {
    const int64_t b = i / a.G, g = i % a.G;
    for (int64_t t = 0; t < a.T; t++) {
      for_row(a.d, [&](auto at) {
        Vec key{}, value{};
        for (int64_t h = i * repeat; h < (i + 1) * repeat; h++) {
          key += at.load(dkeys + h * whole + t * a.padded);
          value += at.load(dvalues + h * whole + t * a.padded);
        }
        at.store(head_of(dk, b, g) + t * a.G * a.d, key);
        at.store(head_of(dv, b, g) + t * a.G * a.d, value);
      });
    }
  });
}

MOLT_KERNEL("Attention", attention);
MOLT_KERNEL("AttentionGrad", attention_grad);

MOLT_SIMD_END
