// Causal attention with grouped queries, in blocks, so that no [T,S] matrix is ever stored (the flash form): a running
// maximum and sum per query, and the log-sum-exp of its scores as a second output, from which the backward recomputes
// the probabilities. Three kernels: Attention takes queries, keys and values that have been turned to their positions and
// may have a cache in front; SelfAttention takes the joined projection as it is and turns heads while it copies them;
// CachedAttention does so too, and extends a cache in place, to which it attends.
//
// Scores are computed transposed, [keys, queries]: with the queries in the lanes both products fill the vectors
// whatever the head size, and the softmax needs no sums across lanes.
//
// levels: avx512bf16
#include "attention.h"
#include "attention_decode.h"

MOLT_SIMD_BEGIN

constexpr int64_t kQueries = kPanel;  // of a block of scores
constexpr int64_t kKeys = 128;        // of a block: 16 KB of scores

// The queries of a block, one a lane. Lanes beyond the last query repeat it.
struct Lanes {
  alignas(64) int32_t first[kQueries], end[kQueries];    // the keys a query sees
  alignas(64) float maximum[kQueries], total[kQueries];  // of its scores, and of their powers
  int64_t all_from, all_to;                              // keys that all of them see
};

static inline void open_lanes(const Attention& a, int64_t b, int64_t q0, int64_t queries, Lanes& lanes) {
  lanes.all_from = a.first_key_of_all(b, q0, queries);
  lanes.all_to = a.end_key(q0);
  for (int64_t i = 0; i < kQueries; i++) {
    const int64_t t = q0 + smaller(i, queries - 1);
    lanes.first[i] = static_cast<int32_t>(a.first_key(b, t));
    lanes.end[i] = static_cast<int32_t>(a.end_key(t));
    lanes.maximum[i] = -__builtin_inff();
    lanes.total[i] = 0;
  }
}

static inline IntsOf<Vec> load_ints(const int32_t* from) {
  IntsOf<Vec> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

// Calls body(key, whether all queries see it) over the keys of a block in steps of `word`: keys from..to of the block are
// seen by all.
template <class Body>
static inline void for_keys(int64_t keys, int64_t from, int64_t to, int word, Body&& body) {
  from = smaller(round_up(larger(0, from), word), keys);
  to = larger(from, smaller(to, keys) / word * word);
  for (int64_t j = 0; j < from; j += word) body(j, Constant<false>{});
  for (int64_t j = from; j < to; j += word) body(j, Constant<true>{});
  for (int64_t j = to; j < keys; j += word) body(j, Constant<false>{});
}

// Scores of a block of keys to 2^(score − maximum so far), as words of neighbouring keys, for the vector of queries at
// `lane`. Returns what sums under the old maximum are to be multiplied by.
template <class Step>
static inline Vec softmax_lanes(Lanes& lanes, int64_t lane, int64_t j0, int64_t keys, const float* scores,
                                typename Step::Element* weights) {
  constexpr int word = Step::kPerWord;
  const int64_t from = lanes.all_from - j0, to = lanes.all_to - j0;
  const IntsOf<Vec> first = load_ints(lanes.first + lane), end = load_ints(lanes.end + lane);
  const auto keep = [&](int64_t j, Vec v, float neutral) {
    const int key = static_cast<int>(j0 + j);
    return ((first <= key) & (end > key)) ? v : splat(neutral);
  };

  const float lowest = -__builtin_inff();
  const Vec before = load(lanes.maximum + lane);
  Vec highest[4] = {before, before, before, before};
  for_keys(keys, from, to, 1, [&](int64_t j, auto all) {
    const Vec score = load(scores + j * kQueries + lane);
    highest[j % 4] = max(highest[j % 4], all.value ? score : keep(j, score, lowest));
  });
  const Vec maximum = max(max(highest[0], highest[1]), max(highest[2], highest[3]));
  // a query that has seen nothing so far has no maximum to subtract: all its scores are dropped
  const Vec reference = maximum == lowest ? Vec{} : maximum;

  const Vec shrink = before == lowest ? Vec{} : exp2_below_one(before - reference);
  Vec total = load(lanes.total + lane) * shrink;
  for_keys(keys, from, to, word, [&](int64_t j, auto all) {
    Vec p[word];
    for (int w = 0; w < word; w++) {
      const Vec power = exp2_below_one(load(scores + (j + w) * kQueries + lane) - reference);
      p[w] = all.value ? power : keep(j + w, power, 0);
      total += p[w];
    }
    store_words(weights + j * kQueries + lane * word, join<Step>(p));
  });
  store(lanes.total + lane, total);
  store(lanes.maximum + lane, maximum);
  return shrink;
}

// Queries [q0, q0 + queries) of one head, against the copied keys (rows) and values (pairs) of its group.
template <class Step>
static void attend(const Attention& a, int64_t b, int64_t h, int64_t q0, int64_t queries, const Heads& q,
                   const HeadLayout<Step>& keys_layout, const HeadCopy<Step>& group, const Heads& o, float* lse) {
  constexpr int word = Step::kPerWord;
  const HeadLayout<Step> queries_layout{kQueries, a.d};
  const int64_t ld = round_up(a.d, kPad);
  Scratch scratch;
  auto* copied = elements<Step>(scratch, queries_layout.panel_size());
  float* strip = scratch.floats(kQueries * ld);
  load_head(q, b, h, q0, queries, a.rotation, a.query_scale(), strip, ld);
  copy_strip(queries_layout, strip, ld, 0, queries, {.panels = copied});

  float* scores = scratch.floats(kKeys * kQueries);
  auto* weights = elements<Step>(scratch, kKeys * kQueries);
  float* sums = scratch.floats(a.d * kQueries);  // Σ p v, transposed
  __builtin_memset(sums, 0, a.d * kQueries * sizeof(float));
  Lanes lanes;
  open_lanes(a, b, q0, queries, lanes);

  const int64_t end = a.end_key(q0 + queries - 1);
  for (int64_t j0 = a.first_key_of_any(b, q0, queries) / kPad * kPad; j0 < end; j0 += kKeys) {
    const int64_t keys = smaller(kKeys, end - j0);
    product_of<Step, Order::rows>(keys, kQueries, queries_layout.ld_rows() / word,
                                  group.rows + j0 * keys_layout.ld_rows(), keys_layout.ld_rows(), copied,
                                  kPanel * word, scores, kQueries, false);
    for (int64_t lane = 0; lane < kQueries; lane += kLanes) {
      const Vec shrink = softmax_lanes<Step>(lanes, lane, j0, keys, scores, weights);
      for (float* s = sums + lane; s < sums + a.d * kQueries; s += kQueries) store(s, load(s) * shrink);
    }
    product_of<Step, Order::columns>(a.d, kQueries, blocks_of(keys, word), group.pairs + j0 * keys_layout.columns(),
                                     keys_layout.ld_pairs(), weights, kQueries * word, sums, kQueries, true);
  }

  for (int64_t lane = 0; lane < kQueries; lane += kLanes) {
    const Vec total = load(lanes.total + lane), inverse = total > 0 ? 1.0f / total : Vec{};
    for (float* s = sums + lane; s < sums + a.d * kQueries; s += kQueries) store(s, load(s) * inverse);
  }
  transpose(a.d, queries, sums, kQueries, strip, ld);
  for (int64_t i = 0; i < queries; i++) {
    o.with(b, h, q0 + i, [&](auto* to) { for_row(a.d, [&](auto at) { at.store(to, at.load(strip + i * ld)); }); });
    lse[i] = lanes.maximum[i] + __builtin_log2f(lanes.total[i]);
  }
}

// All blocks of all heads; keys are turned by `keys_rotation`. lse[B,H,T]
template <class Step>
static void attend_all(Pool& pool, const Attention& a, const Heads& q, const Heads& k, const Rotation& keys_rotation,
                       const Heads& v, const Heads& o, float* lse) {
  const HeadLayout<Step> layout{a.S, a.d};
  Scratch scratch;
  auto* key_rows = elements<Step>(scratch, a.B * a.G * layout.rows_size());
  auto* value_pairs = elements<Step>(scratch, a.B * a.G * layout.pairs_size());
  const auto copy_of = [&](int64_t b, int64_t g) -> HeadCopy<Step> {
    const int64_t i = b * a.G + g;
    return {.rows = key_rows + i * layout.rows_size(), .pairs = value_pairs + i * layout.pairs_size()};
  };

  const int64_t strips = blocks_of(a.S, kStrip);
  for_tasks(pool, a.B * a.G * strips, static_cast<double>(2 * kStrip * a.d) * 0.5, [&](int64_t i) {
    const int64_t b = i / (a.G * strips), g = i / strips % a.G, t = i % strips * kStrip;
    const int64_t tokens = smaller(kStrip, a.S - t), ld = round_up(a.d, kPad);
    const HeadCopy<Step> to = copy_of(b, g);
    Scratch local;
    float* strip = local.floats(kStrip * ld);
    load_head(k, b, g, t, tokens, keys_rotation, 1, strip, ld);
    copy_strip(layout, strip, ld, t, tokens, {.rows = to.rows});
    load_head(v, b, g, t, tokens, {}, 1, strip, ld);
    copy_strip(layout, strip, ld, t, tokens, {.pairs = to.pairs});
  });

  const int64_t blocks = blocks_of(a.T, kQueries);
  for_tasks(pool, a.B * a.H * blocks, kQueries * nanoseconds_a_query(a), [&](int64_t i) {
    // The last queries see most: they go first, so that threads end together.
    const int64_t block = blocks - 1 - i / (a.B * a.H), b = i / a.H % a.B, h = i % a.H, q0 = block * kQueries;
    attend<Step>(a, b, h, q0, smaller(kQueries, a.T - q0), q, layout, copy_of(b, a.group_of(h)), o,
                 lse + (b * a.H + h) * a.T + q0);
  });
}

// One query of one head, for a decode, where a block of queries would be nearly empty. Rows of k and v lie `ld` apart.
template <class K, class V>
static void attend_one(const Attention& a, int64_t b, int64_t h, int64_t t, const Heads& q, const K* k, const V* v,
                       int64_t ld, const Heads& o, float* lse) {
  const int64_t first = a.first_key(b, t), keys = a.end_key(t) - first;
  Scratch scratch;
  float* query = scratch.floats(a.d);
  float* p = scratch.floats(larger(keys, 0));
  load_head(q, b, h, t, 1, a.rotation, a.query_scale(), query, a.d);
  float maximum = -__builtin_inff();
  for (int64_t j = 0; j < keys; j++) {
    Vec products{};
    for_row(a.d, [&](auto at) { products += at.load(query) * at.load(k + (first + j) * ld); });
    p[j] = sum(products);
    maximum = p[j] > maximum ? p[j] : maximum;
  }
  Vec total{};
  for_row(keys, [&](auto at) {
    const Vec power = at.keep(exp2_below_one(at.load(p) - maximum), 0);
    total += power;
    at.store(p, power);
  });
  const float all = sum(total), inverse = all > 0 ? 1.0f / all : 0;
  o.with(b, h, t, [&](auto* to) {
    for_row(a.d, [&](auto at) {
      Vec mean{};
      for (int64_t j = 0; j < keys; j++) mean += p[j] * at.load(v + (first + j) * ld);
      at.store(to, mean * inverse);
    });
  });
  *lse = maximum + __builtin_log2f(all);
}

static void attend_each(Pool& pool, const Attention& a, const Heads& q, const Heads& k, const Heads& v, const Heads& o,
                        float* lse) {
  for_tasks(pool, a.B * a.H * a.T, 2 * nanoseconds_a_query(a), [&](int64_t i) {
    const int64_t b = i / (a.H * a.T), h = i / a.T % a.H, t = i % a.T, g = a.group_of(h);
    k.with(b, g, 0, [&](auto* keys) {
      v.with(b, g, 0, [&](auto* values) { attend_one(a, b, h, t, q, keys, values, k.ld, o, lse + i); });
    });
  });
}

// {q[B,T,H,d], k[B,S,G,d], v[B,S,G,d], start[B,T]} [scale, window] → [o[B,T,H,d] stored as q is, lse[B,H,T]]
static void attention(const Call& call) {
  const Tensor &q = call.in[0], &k = call.in[1];
  const Attention a = attention_of(call, q, k, call.in[3]);
  const Heads queries = heads_of(q), keys = heads_of(k), values = heads_of(call.in[2]), o = heads_of(call.out[0]);
  float* lse = call.out[1].f32();
  if (a.T <= 4) return attend_each(*call.pool, a, queries, keys, values, o, lse);
  with_step(k.dtype, [&](auto step) {
    attend_all<decltype(step)>(*call.pool, a, queries, keys, {}, values, o, lse);
  });
}

// {qkv[B,T,C], position[B,T], cos[M,d/2], sin[M,d/2], start[B,T]} [heads, kvHeads, headDim, scale, window]
//   → [o[B,T,H·d] stored as qkv is, lse[B,H,T]]
static void self_attention(const Call& call) {
  const auto [a, q, k, v] = joined_attention(call, call.in[0], call.in + 1);
  const Heads o = heads_from(call.out[0], 0, a.d);
  with_step(q.dtype, [&](auto step) {
    attend_all<decltype(step)>(*call.pool, a, q, k, a.rotation, v, o, call.out[1].f32());
  });
}

// Turns the keys at hand and writes them and the values behind the first `past` tokens of the cache.
static void extend_cache(Pool& pool, const Attention& a, int64_t past, const Heads& k, const Heads& v, const Heads& keys,
                         const Heads& values) {
  for_tasks(pool, a.B * a.T, static_cast<double>(a.G * a.d), [&](int64_t i) {
    const int64_t b = i / a.T, t = i % a.T;
    for (int64_t g = 0; g < a.G; g++) {
      k.with(b, g, t, [&](auto* from) {
        keys.with(b, g, past + t, [&](auto* to) { rotate_token(a.d, from, a.rotation, i, 1, 1, to); });
      });
      v.with(b, g, t, [&](auto* from) {
        values.with(b, g, past + t, [&](auto* to) { rotate_token(a.d, from, Rotation{}, i, 1, 1, to); });
      });
    }
  });
}

// {qkv[B,T,C], position[B,T], cos[M,d/2], sin[M,d/2], start[B,T], keys[B,S,G,d], values[B,S,G,d]}
//   [heads, kvHeads, headDim, scale, window, past] → o[B,T,H·d] stored as qkv is; keys and values in place
static void cached_attention(const Call& call) {
  auto [a, q, k, v] = joined_attention(call, call.in[0], call.in + 1);
  const Heads keys = heads_of(call.in[5]), values = heads_of(call.in[6]), o = heads_from(call.out[0], 0, a.d);
  const int64_t past = call.attr_int(5);
  Pool& pool = *call.pool;
  extend_cache(pool, a, past, k, v, keys, values);
  a.S = past + a.T;
  Scratch scratch;
  if (a.T <= 4) {
    float* queries = scratch.floats(a.B * a.T * a.H * a.d);
    for (int64_t i = 0; i < a.B * a.T; i++)
      for (int64_t h = 0; h < a.H; h++)
        q.with(i / a.T, h, i % a.T, [&](auto* from) {
          rotate_token(a.d, from, a.rotation, i, 1, a.query_scale(), queries + (i * a.H + h) * a.d);
        });
    return attend_cache(pool, a, queries, keys, values, o);
  }
  float* lse = scratch.floats(a.B * a.H * a.T);
  with_step(keys.dtype, [&](auto step) {
    attend_all<decltype(step)>(pool, a, q, keys, {}, values, o, lse);
  });
}

MOLT_KERNEL("Attention", attention);
MOLT_KERNEL("CachedAttention", cached_attention);
MOLT_KERNEL("SelfAttention", self_attention);

MOLT_SIMD_END
