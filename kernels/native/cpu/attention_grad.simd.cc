// The gradient of attention, in the blocks of the forward: probabilities are recomputed from the saved log-sum-exp.
// With p = exp(score − lse) and Δ = ⟨do, o⟩:
//   dv_j = Σ_i p_ij do_i;   ds = p ∘ (do·vᵀ − Δ);   dk_j = scale Σ_i ds_ij q_i;   dq_i = scale Σ_j ds_ij k_j
// Here the keys are in the lanes: then four of the five products fill the vectors whatever the head size. One task a
// head; the heads that share a key-value head are summed afterwards, in their order.
#include "attention.h"
#include "parallel.h"

MOLT_SIMD_BEGIN

// One head. `keys` is T rounded up to kPad, `padded` is d rounded up.
struct HeadGrad {
  int64_t keys, padded;
  const float *q, *dout;  // [T, d], q times the scale; dout where it lies
  int64_t ld_dout;
  const float* k;            // [T, padded]
  const float *k_dS, *v_dS;  // [d, keys]
  const float *delta, *lse;  // [T]
  float* dq;                 // [T, padded], without the scale
  float *dk_dS, *dv_dS;      // [d, keys]
};

// Calls body(AllSeen or SomeSeen) for each vector of one query's row of a block: the block begins at key j0, the query
// sees the keys [first, end). SomeSeen is a vector at an edge, of which only some lanes count.
struct AllSeen {
  int64_t at;
  Vec keep(Vec v, float) const { return v; }
};
struct SomeSeen {
  int64_t at;
  int first, end;
  Vec keep(Vec v, float neutral) const {
    const auto lane = lane_numbers<Vec>();
    return ((lane >= first) & (lane < end)) ? v : splat(neutral);
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

static void attend_grad(const Attention& a, int64_t b, const HeadGrad& head) {
  Scratch scratch;
  float* p = scratch.floats(kQueries * kKeys);
  float* ds = scratch.floats(kQueries * kKeys);
  for (int64_t q0 = 0; q0 < a.T; q0 += kQueries) {
    const int64_t queries = smaller(kQueries, a.T - q0);
    const float *q = head.q + q0 * a.d, *dout = head.dout + q0 * head.ld_dout;
    for_key_blocks(a, b, q0, queries, [&](int64_t j0, int64_t keys) {
      product(queries, keys, a.d, q, a.d, head.k_dS + j0, head.keys, p, kKeys);
      product(queries, keys, a.d, dout, head.ld_dout, head.v_dS + j0, head.keys, ds, kKeys);
      for (int64_t i = 0; i < queries; i++) {
        const float lse = head.lse[q0 + i], delta = head.delta[q0 + i];
        for_seen(keys, j0, a.first_key(b, q0 + i), a.end_key(q0 + i), [&](auto seen) {
          const int64_t at = i * kKeys + seen.at;
          const Vec kept = seen.keep(exp_below_one(load(p + at) - lse), 0);
          store(p + at, kept);
          store(ds + at, seen.keep(kept * (load(ds + at) - delta), 0));
        });
      }
      product<Order::columns>(a.d, keys, queries, dout, head.ld_dout, p, kKeys, head.dv_dS + j0, head.keys, true);
      product<Order::columns>(a.d, keys, queries, q, a.d, ds, kKeys, head.dk_dS + j0, head.keys, true);
      product(queries, a.d, keys, ds, kKeys, head.k + j0 * head.padded, head.padded, head.dq + q0 * head.padded,
              head.padded, true);
    });
  }
}

// to[d, keys] = one head of `length` rows, transposed; zeros behind it.
static void transpose_head(int64_t length, int64_t d, const float* from, int64_t ld, float* to, int64_t keys) {
  transpose(length, d, from, ld, to, keys);
  for (int64_t i = 0; i < d; i++)
    for (int64_t t = length; t < keys; t++) to[i * keys + t] = 0;
}

static void clear(float* to, int64_t count) { __builtin_memset(to, 0, count * sizeof(float)); }

// {do, q, k, v, o, lse, start} [scale, window] → [dq, dk, dv], for S = T
static void attention_grad(const Call& call) {
  const Tensor &dout = call.in[0], &q = call.in[1], &k = call.in[2], &v = call.in[3], &o = call.in[4];
  const Tensor &dq = call.out[0], &dk = call.out[1], &dv = call.out[2];
  const float* lse = call.in[5].f32();
  const Attention a = attention_of(call, q, k, call.in[6]);
  const int64_t keys = round_up(a.T, kPad), padded = round_up(a.d, kPad);
  const int64_t by_rows = a.T * padded, by_columns = a.d * keys;
  const int64_t ld = a.G * a.d, ld_q = a.H * a.d;

  Scratch scratch;
  float* k_rows = scratch.floats(a.B * a.G * by_rows);   // [B,G][T, padded]
  float* k_dS = scratch.floats(a.B * a.G * by_columns);  // [B,G][d, keys]
  float* v_dS = scratch.floats(a.B * a.G * by_columns);
  float* dk_dS = scratch.floats(a.B * a.H * by_columns);  // [B,H][d, keys]
  float* dv_dS = scratch.floats(a.B * a.H * by_columns);
  for_tasks(*call.pool, a.B * a.G, static_cast<double>(a.T * a.d), [&](int64_t i) {
    const int64_t b = i / a.G, g = i % a.G;
    clear(k_rows + i * by_rows, by_rows);
    for (int64_t t = 0; t < a.T; t++)
      __builtin_memcpy(k_rows + i * by_rows + t * padded, head_of(k, b, g) + t * ld, a.d * sizeof(float));
    transpose_head(a.T, a.d, head_of(k, b, g), ld, k_dS + i * by_columns, keys);
    transpose_head(a.T, a.d, head_of(v, b, g), ld, v_dS + i * by_columns, keys);
  });

  for_tasks(*call.pool, a.B * a.H, static_cast<double>(a.T) * 2.5 * nanoseconds_a_query(a), [&](int64_t i) {
    const int64_t b = i / a.H, h = i % a.H, group = b * a.G + a.group_of(h);
    const float *douts = head_of(dout, b, h), *outs = head_of(o, b, h), *queries = head_of(q, b, h);
    Scratch local;
    float* scaled = local.floats(a.T * a.d);
    float* dqueries = local.floats(by_rows);
    float* delta = local.floats(a.T);
    for (int64_t t = 0; t < a.T; t++) {
      Vec products{};
      for_row(a.d, [&](auto at) {
        at.store(scaled + t * a.d, at.load(queries + t * ld_q) * a.scale);
        products += at.load(douts + t * ld_q) * at.load(outs + t * ld_q);
      });
      delta[t] = sum(products);
    }
    clear(dqueries, by_rows);
    clear(dk_dS + i * by_columns, by_columns);
    clear(dv_dS + i * by_columns, by_columns);
    attend_grad(
        a, b,
        {keys, padded, scaled, douts, ld_q, k_rows + group * by_rows, k_dS + group * by_columns,
         v_dS + group * by_columns, delta, lse + i * a.T, dqueries, dk_dS + i * by_columns, dv_dS + i * by_columns});
    for (int64_t t = 0; t < a.T; t++) {
      for_row(a.d, [&](auto at) { at.store(head_of(dq, b, h) + t * ld_q, at.load(dqueries + t * padded) * a.scale); });
    }
  });

  const int64_t heads = a.H / a.G;
  for_tasks(*call.pool, a.B * a.G, static_cast<double>((heads + 2) * a.T * a.d) * 0.3, [&](int64_t i) {
    const auto sum_heads = [&](float* columns, float* to) {
      float* total = columns + i * heads * by_columns;  // of the first head of the group
      for (int64_t h = 1; h < heads; h++)
        for_row(by_columns, [&](auto at) { at.store(total, at.load(total) + at.load(total + h * by_columns)); });
      transpose(a.d, a.T, total, keys, to, ld);
    };
    sum_heads(dk_dS, head_of(dk, i / a.G, i % a.G));
    sum_heads(dv_dS, head_of(dv, i / a.G, i % a.G));
  });
}

MOLT_KERNEL("AttentionGrad", attention_grad);

MOLT_SIMD_END
