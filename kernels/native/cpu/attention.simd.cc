// Causal attention with grouped queries, in blocks, so that no [T,S] matrix is ever stored (the flash form): a running
// maximum and sum per query, and the log-sum-exp of its scores as a second output, from which the backward recomputes
// the probabilities.
//
// Scores are computed transposed, [keys, queries]: with the queries in the lanes both products fill the vectors
// whatever the head size, the softmax needs no sums across lanes, and keys and values are read where they lie.
#include "attention.h"
#include "parallel.h"

MOLT_SIMD_BEGIN

// The queries of a block, one a lane. Lanes beyond the last query repeat it.
struct Lanes {
  alignas(64) int32_t first[kQueries], end[kQueries];    // the keys a query sees
  alignas(64) float maximum[kQueries], total[kQueries];  // of its scores, and of their exponentials
  int64_t all_from, all_to;                              // keys that all of them see
};

static inline void open_lanes(const Attention& a, int64_t b, int64_t q0, int64_t queries, Lanes& lanes) {
  lanes.all_from = 0;
  lanes.all_to = a.S;
  for (int64_t i = 0; i < kQueries; i++) {
    const int64_t t = q0 + smaller(i, queries - 1);
    const int64_t first = a.first_key(b, t), end = a.end_key(t);
    lanes.first[i] = static_cast<int32_t>(first);
    lanes.end[i] = static_cast<int32_t>(end);
    lanes.all_from = larger(lanes.all_from, first);
    lanes.all_to = smaller(lanes.all_to, end);
    lanes.maximum[i] = -__builtin_inff();
    lanes.total[i] = 0;
  }
}

static inline IntsOf<Vec> load_ints(const int32_t* from) {
  IntsOf<Vec> v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

// Scores of a block of keys to exp(score − maximum so far), for the vector of queries at `lane`. Returns what sums
// under the old maximum are to be multiplied by.
static inline Vec softmax_lanes(Lanes& lanes, int64_t lane, int64_t j0, int64_t keys, float* scores) {
  const IntsOf<Vec> first = load_ints(lanes.first + lane), end = load_ints(lanes.end + lane);
  const int64_t all_from = larger(0, lanes.all_from - j0), all_to = smaller(keys, lanes.all_to - j0);
  const auto keep = [&](int64_t j, Vec v, float neutral) {
    if (j >= all_from && j < all_to) return v;
    const int key = static_cast<int>(j0 + j);
    return ((first <= key) & (end > key)) ? v : splat(neutral);
  };
  const float lowest = -__builtin_inff();
  Vec highest[4] = {load(lanes.maximum + lane), splat(lowest), splat(lowest), splat(lowest)};
  for (int64_t j = 0; j < keys; j++)
    highest[j % 4] = max(highest[j % 4], keep(j, load(scores + j * kQueries + lane), lowest));
  const Vec maximum = max(max(highest[0], highest[1]), max(highest[2], highest[3]));
  // a query that has seen nothing so far has no maximum to subtract: all its scores are dropped
  const Vec reference = maximum == lowest ? Vec{} : maximum;

  const Vec shrink = exp(load(lanes.maximum + lane) - reference);
  Vec total = load(lanes.total + lane) * shrink;
  for (int64_t j = 0; j < keys; j++) {
    float* score = scores + j * kQueries + lane;
    const Vec p = keep(j, exp_below_one(load(score) - reference), 0);
    total += p;
    store(score, p);
  }
  store(lanes.total + lane, total);
  store(lanes.maximum + lane, maximum);
  return shrink;
}

// One block of queries of one head. The rows of k and v lie `ld` apart, those of q and o `ld_q`.
static void attend(const Attention& a, int64_t b, int64_t q0, int64_t queries, const float* q, const float* k,
                   const float* v, int64_t ld, float* o, int64_t ld_q, float* lse) {
  Scratch scratch;
  float* q_dQ = scratch.floats(a.d * kQueries);  // scaled and transposed
  float* scores = scratch.floats(kKeys * kQueries);
  float* sums = scratch.floats(a.d * kQueries);  // Σ p v, transposed
  Lanes lanes;
  open_lanes(a, b, q0, queries, lanes);
  __builtin_memset(q_dQ, 0, a.d * kQueries * sizeof(float));
  __builtin_memset(sums, 0, a.d * kQueries * sizeof(float));
  transpose(queries, a.d, q, ld_q, q_dQ, kQueries);
  for_row(a.d * kQueries, [&](auto at) { at.store(q_dQ, at.load(q_dQ) * a.scale); });

  for_key_blocks(a, b, q0, queries, [&](int64_t j0, int64_t keys) {
    product(keys, kQueries, a.d, k + j0 * ld, ld, q_dQ, kQueries, scores, kQueries);
    for (int64_t lane = 0; lane < kQueries; lane += kLanes) {
      const Vec shrink = softmax_lanes(lanes, lane, j0, keys, scores);
      for (float* s = sums + lane; s < sums + a.d * kQueries; s += kQueries) store(s, load(s) * shrink);
    }
    product<Order::columns>(a.d, kQueries, keys, v + j0 * ld, ld, scores, kQueries, sums, kQueries, true);
  });

  for (int64_t lane = 0; lane < kQueries; lane += kLanes) {
    const Vec total = load(lanes.total + lane), inverse = total > 0 ? 1.0f / total : Vec{};
    for (float* s = sums + lane; s < sums + a.d * kQueries; s += kQueries) store(s, load(s) * inverse);
  }
  transpose(a.d, queries, sums, kQueries, o, ld_q);
  for (int64_t i = 0; i < queries; i++) lse[i] = lanes.maximum[i] + __builtin_logf(lanes.total[i]);
}

// One query of one head, for a decode, where a block of queries would be nearly empty.
static void attend_one(const Attention& a, int64_t b, int64_t t, const float* q, const float* k, const float* v,
                       int64_t ld, float* o, float* lse) {
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

// {q[B,T,H,d], k[B,S,G,d], v[B,S,G,d], start[B,T]} [scale, window] → [o[B,T,H,d], lse[B,H,T]]
static void attention(const Call& call) {
  const Tensor &q = call.in[0], &k = call.in[1], &v = call.in[2], &o = call.out[0];
  float* lse = call.out[1].f32();
  const Attention a = attention_of(call, q, k, call.in[3]);
  const int64_t ld = a.G * a.d, ld_q = a.H * a.d;

  if (a.T <= 4) {
    for_tasks(*call.pool, a.B * a.H * a.T, 2 * nanoseconds_a_query(a), [&](int64_t i) {
      const int64_t b = i / (a.H * a.T), h = i / a.T % a.H, t = i % a.T, g = a.group_of(h);
      attend_one(a, b, t, head_of(q, b, h) + t * ld_q, head_of(k, b, g), head_of(v, b, g), ld,
                 head_of(o, b, h) + t * ld_q, lse + i);
    });
    return;
  }

  const int64_t blocks = blocks_of(a.T, kQueries);
  for_tasks(*call.pool, a.B * a.H * blocks, kQueries * nanoseconds_a_query(a), [&](int64_t i) {
    const int64_t b = i / (a.H * blocks), h = i / blocks % a.H, g = a.group_of(h), q0 = i % blocks * kQueries;
    attend(a, b, q0, smaller(kQueries, a.T - q0), head_of(q, b, h) + q0 * ld_q, head_of(k, b, g), head_of(v, b, g), ld,
           head_of(o, b, h) + q0 * ld_q, ld_q, lse + (b * a.H + h) * a.T + q0);
  });
}

MOLT_KERNEL("Attention", attention);

MOLT_SIMD_END
