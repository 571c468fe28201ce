// The gradient of attention, in blocks: probabilities are recomputed from the saved log-sum-exp. With s the scores in
// units of log 2, p = 2^(s − lse) and Δ = ⟨do, o⟩:
//   dv_j = Σ_i p_ij do_i;   ds = p ∘ (do·vᵀ − Δ);   dk_j = scale Σ_i ds_ij q_i;   dq_i = scale Σ_j ds_ij k_j
// Here the keys are in the lanes: then four of the five products fill the vectors whatever the head size. One task a
// head; the heads that share a key-value head are summed afterwards, in their order. SelfAttentionGrad turns the
// gradients of queries and keys back to where the projection left them and stores all three side by side.
//
// levels: avx512bf16
#include "attention.h"

MOLT_SIMD_BEGIN

constexpr int64_t kQueries = 64;      // of a block of scores
constexpr int64_t kKeys = 4 * kPanel;  // whose gradients stay near while the queries pass by

// Copies that every head of a group reads: keys as pairs and panels, values as panels.
template <class Step>
struct GroupCopy {
  HeadCopy<Step> key, value;
};

// One head: copies of queries (scaled) and of do as rows and pairs, and what is summed over blocks.
template <class Step>
struct HeadGrad {
  HeadCopy<Step> query, dout;
  const float *delta, *lse;    // [T]
  float* dquery;               // [T, columns], without the scale
  float *dkey, *dvalue;        // [T, columns]
};

// Probabilities and their gradients for a panel of keys, from `scores` and do·vᵀ, both [kQueries, kPanel]: as words of
// neighbouring queries, [steps, kPanel], and ds as rows too, [kQueries, kKeys].
template <class Step>
struct ScoreGrads {
  float *scores, *dweights;
  typename Step::Element *p, *ds, *ds_rows;
};

// Rows [from, queries) of the block that begins with query q0, keys [j0, j0 + kPanel). `all`: every query sees every key.
template <class Step, bool all>
static inline void score_grads(const Attention& a, int64_t b, int64_t q0, int64_t from, int64_t queries, int64_t j0,
                               const HeadGrad<Step>& head, const ScoreGrads<Step>& at) {
  constexpr int word = Step::kPerWord;
  for (int64_t i = from; i < queries; i += word) {
    float lse[word], delta[word];
    int first[word], end[word];
    for (int w = 0; w < word; w++) {
      // beyond the last query: nothing is seen
      const int64_t t = q0 + smaller(i + w, queries - 1);
      lse[w] = head.lse[t];
      delta[w] = head.delta[t];
      first[w] = static_cast<int>(a.first_key(b, t) - j0);
      end[w] = i + w < queries ? static_cast<int>(a.end_key(t) - j0) : 0;
    }
    for (int64_t j = 0; j < kPanel; j += kLanes) {
      Vec p[word], ds[word];
      for (int w = 0; w < word; w++) {
        const int64_t cell = (i + w) * kPanel + j;
        p[w] = exp2_below_one(load(at.scores + cell) - lse[w]);
        ds[w] = p[w] * (load(at.dweights + cell) - delta[w]);
        if constexpr (!all) {
          const auto lane = lane_numbers<Vec>() + static_cast<int>(j);
          const auto seen = (lane >= first[w]) & (lane < end[w]);
          p[w] = seen ? p[w] : Vec{};
          ds[w] = seen ? ds[w] : Vec{};
        }
        store(at.ds_rows + (i + w) * kKeys + j, ds[w]);
      }
      store_words(at.p + i * kPanel + j * word, join<Step>(p));
      store_words(at.ds + i * kPanel + j * word, join<Step>(ds));
    }
  }
}

// All queries of one head against one block of keys.
template <class Step>
static void attend_grad(const Attention& a, int64_t b, int64_t j0, const HeadLayout<Step>& layout,
                        const GroupCopy<Step>& group, const HeadGrad<Step>& head) {
  constexpr int word = Step::kPerWord;
  const int64_t keys = smaller(kKeys, a.T - j0), steps = layout.ld_rows() / word, columns = layout.columns();
  Scratch scratch;
  const ScoreGrads<Step> at{scratch.floats(kQueries * kPanel), scratch.floats(kQueries * kPanel),
                            elements<Step>(scratch, kQueries * kPanel), elements<Step>(scratch, kQueries * kPanel),
                            elements<Step>(scratch, kQueries * kKeys)};
  float* dkey = scratch.floats(a.d * kKeys);  // transposed
  float* dvalue = scratch.floats(a.d * kKeys);
  __builtin_memset(dkey, 0, a.d * kKeys * sizeof(float));
  __builtin_memset(dvalue, 0, a.d * kKeys * sizeof(float));

  for (int64_t q0 = j0 / kQueries * kQueries; q0 < a.T; q0 += kQueries) {
    const int64_t queries = smaller(kQueries, a.T - q0);
    if (a.first_key_of_any(b, q0, queries) >= j0 + keys) continue;
    const int64_t first_of_all = a.first_key_of_all(b, q0, queries);
    const auto row_of = [&](const HeadCopy<Step>& copy, int64_t i) { return copy.rows + (q0 + i) * layout.ld_rows(); };
    const auto pair_of = [&](const HeadCopy<Step>& copy, int64_t i) { return copy.pairs + (q0 + i) * columns; };

    for (int64_t j = 0; j < keys; j += kPanel) {
      const int64_t panel = (j0 + j) / kPanel * layout.panel_size();
      // queries before the panel's first key see nothing of it
      const int64_t from = larger(0, j0 + j - q0);
      if (from >= queries) break;
      const int64_t rows = queries - from;
      product_of<Step, Order::rows>(rows, kPanel, steps, row_of(head.query, from), layout.ld_rows(),
                                    group.key.panels + panel, kPanel * word, at.scores + from * kPanel, kPanel, false);
      product_of<Step, Order::rows>(rows, kPanel, steps, row_of(head.dout, from), layout.ld_rows(),
                                    group.value.panels + panel, kPanel * word, at.dweights + from * kPanel, kPanel,
                                    false);
      const ScoreGrads<Step> part{at.scores, at.dweights, at.p, at.ds, at.ds_rows + j};
      if (first_of_all <= j0 + j && a.end_key(q0 + from) >= j0 + j + kPanel && rows % word == 0) {
        score_grads<Step, true>(a, b, q0, from, queries, j0 + j, head, part);
      } else {
        score_grads<Step, false>(a, b, q0, from, queries, j0 + j, head, part);
      }
      const int64_t pairs = blocks_of(rows, word);
      product_of<Step, Order::columns>(a.d, kPanel, pairs, pair_of(head.dout, from), layout.ld_pairs(),
                                       at.p + from * kPanel, kPanel * word, dvalue + j, kKeys, true);
      product_of<Step, Order::columns>(a.d, kPanel, pairs, pair_of(head.query, from), layout.ld_pairs(),
                                       at.ds + from * kPanel, kPanel * word, dkey + j, kKeys, true);
    }
    // A group of queries needs the keys up to its last query.
    for (int64_t i = 0; i < queries; i += kPanel) {
      const int64_t rows = smaller(kPanel, queries - i);
      const int64_t seen = smaller(keys, a.end_key(q0 + i + rows - 1) - j0);
      if (seen <= 0) continue;
      product_of<Step, Order::rows>(rows, a.d, blocks_of(seen, word), at.ds_rows + i * kKeys, kKeys,
                                    group.key.pairs + j0 * columns, layout.ld_pairs(),
                                    head.dquery + (q0 + i) * columns, columns, true);
    }
  }
  transpose(a.d, keys, dkey, kKeys, head.dkey + j0 * columns, columns);
  transpose(a.d, keys, dvalue, kKeys, head.dvalue + j0 * columns, columns);
}

struct AllHeads {
  Heads q, k, v, o, dout, dq, dk, dv;
};

// The copies of one head's queries and of do, and Δ.
template <class Step>
static void copy_queries(const Attention& a, int64_t b, int64_t h, const AllHeads& x, const HeadLayout<Step>& layout,
                         const HeadCopy<Step>& query, const HeadCopy<Step>& dout, float* delta) {
  const int64_t ld = layout.columns();
  Scratch scratch;
  float *strip = scratch.floats(kStrip * ld), *outs = scratch.floats(kStrip * ld);
  for (int64_t t = 0; t < a.T; t += kStrip) {
    const int64_t tokens = smaller(kStrip, a.T - t);
    load_head(x.q, b, h, t, tokens, a.rotation, a.query_scale(), strip, ld);
    copy_strip(layout, strip, ld, t, tokens, query);
    load_head(x.dout, b, h, t, tokens, {}, 1, strip, ld);
    copy_strip(layout, strip, ld, t, tokens, dout);
    load_head(x.o, b, h, t, tokens, {}, 1, outs, ld);
    for (int64_t i = 0; i < tokens; i++) {
      Vec products{};
      for_row(a.d, [&](auto at) { products += at.load(strip + i * ld) * at.load(outs + i * ld); });
      delta[t + i] = sum(products);
    }
  }
}

// to = scale · from[T, ld] for tokens of one head, turned back from their positions.
static inline void store_head(const Heads& to, int64_t b, int64_t head, int64_t t, int64_t tokens,
                              const Rotation& rotation, float scale, const float* from, int64_t ld) {
  to.with(b, head, t, [&](auto* first) {
    for (int64_t i = 0; i < tokens; i++)
      rotate_token(to.d, from + i * ld, rotation, b * to.length + t + i, -1, scale, first + i * to.ld);
  });
}

template <class Step>
static void attend_grad_all(Pool& pool, const Attention& a, const AllHeads& x, const float* lse) {
  const HeadLayout<Step> layout{a.T, a.d};
  const int64_t columns = layout.columns(), sums = a.T * columns;
  Scratch scratch;
  const int64_t groups = a.B * a.G, heads = a.B * a.H;
  auto* key_pairs = elements<Step>(scratch, groups * layout.pairs_size());
  auto* key_panels = elements<Step>(scratch, groups * layout.panels_size());
  auto* value_panels = elements<Step>(scratch, groups * layout.panels_size());
  float* dkeys = scratch.floats(heads * sums);
  float* dvalues = scratch.floats(heads * sums);
  const auto group_copy = [&](int64_t i) -> GroupCopy<Step> {
    return {{.pairs = key_pairs + i * layout.pairs_size(), .panels = key_panels + i * layout.panels_size()},
            {.panels = value_panels + i * layout.panels_size()}};
  };

  const int64_t strips = blocks_of(a.T, kStrip);
  for_tasks(pool, groups * strips, static_cast<double>(2 * kStrip * a.d) * 0.5, [&](int64_t i) {
    const int64_t group = i / strips, b = group / a.G, g = group % a.G, t = i % strips * kStrip;
    const int64_t tokens = smaller(kStrip, a.T - t);
    const GroupCopy<Step> to = group_copy(group);
    Scratch local;
    float* strip = local.floats(kStrip * columns);
    load_head(x.k, b, g, t, tokens, a.rotation, 1, strip, columns);
    copy_strip(layout, strip, columns, t, tokens, to.key);
    load_head(x.v, b, g, t, tokens, {}, 1, strip, columns);
    copy_strip(layout, strip, columns, t, tokens, to.value);
  });

  for_tasks(pool, heads, static_cast<double>(a.T) * 2.5 * nanoseconds_a_query(a), [&](int64_t i) {
    const int64_t b = i / a.H, h = i % a.H;
    Scratch local;
    const HeadCopy<Step> query{.rows = elements<Step>(local, layout.rows_size()),
                               .pairs = elements<Step>(local, layout.pairs_size())};
    const HeadCopy<Step> dout{.rows = elements<Step>(local, layout.rows_size()),
                              .pairs = elements<Step>(local, layout.pairs_size())};
    float *delta = local.floats(a.T), *dquery = local.floats(sums);
    copy_queries(a, b, h, x, layout, query, dout, delta);
    __builtin_memset(dquery, 0, sums * sizeof(float));
    const HeadGrad<Step> head{query, dout, delta, lse + i * a.T, dquery, dkeys + i * sums, dvalues + i * sums};
    for (int64_t j0 = 0; j0 < a.T; j0 += kKeys)
      attend_grad(a, b, j0, layout, group_copy(b * a.G + a.group_of(h)), head);
    store_head(x.dq, b, h, 0, a.T, a.rotation, a.scale, dquery, columns);
  });

  const int64_t sharing = a.H / a.G;
  for_tasks(pool, groups * strips, static_cast<double>((sharing + 2) * kStrip * a.d) * 0.3, [&](int64_t i) {
    const int64_t group = i / strips, b = group / a.G, g = group % a.G, t = i % strips * kStrip;
    const int64_t tokens = smaller(kStrip, a.T - t);
    const auto sum_heads = [&](float* of_heads) {
      float* total = of_heads + group * sharing * sums + t * columns;  // of the first head of the group
      for (int64_t h = 1; h < sharing; h++)
        for_row(tokens * columns, [&](auto at) { at.store(total, at.load(total) + at.load(total + h * sums)); });
      return total;
    };
    // queries were copied with log2 e in them
    store_head(x.dk, b, g, t, tokens, a.rotation, kLn2, sum_heads(dkeys), columns);
    store_head(x.dv, b, g, t, tokens, {}, 1, sum_heads(dvalues), columns);
  });
}

// {do, q, k, v, o, lse, start} [scale, window] → [dq, dk, dv], for S = T
static void attention_grad(const Call& call) {
  const Tensor &q = call.in[1], &k = call.in[2];
  const Attention a = attention_of(call, q, k, call.in[6]);
  const AllHeads heads{heads_of(q),           heads_of(k),           heads_of(call.in[3]),  heads_of(call.in[4]),
                       heads_of(call.in[0]),  heads_of(call.out[0]), heads_of(call.out[1]), heads_of(call.out[2])};
  with_step(k.dtype, [&](auto step) {
    attend_grad_all<decltype(step)>(*call.pool, a, heads, call.in[5].f32());
  });
}

// {do[B,T,H·d], qkv[B,T,C], o[B,T,H·d], lse, position, cos, sin, start} [heads, kvHeads, headDim, scale, window] → dqkv
static void self_attention_grad(const Call& call) {
  const auto [a, q, k, v] = joined_attention(call, call.in[1], call.in + 4);
  const Tensor& dqkv = call.out[0];
  const AllHeads heads{q, k, v, heads_from(call.in[2], 0, a.d), heads_from(call.in[0], 0, a.d), heads_from(dqkv, 0, a.d),
                       heads_from(dqkv, a.H * a.d, a.d), heads_from(dqkv, (a.H + a.G) * a.d, a.d)};
  with_step(q.dtype, [&](auto step) {
    attend_grad_all<decltype(step)>(*call.pool, a, heads, call.in[3].f32());
  });
}

MOLT_KERNEL("AttentionGrad", attention_grad);
MOLT_KERNEL("SelfAttentionGrad", self_attention_grad);

MOLT_SIMD_END
