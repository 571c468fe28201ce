// Attention of one token to a long cache. Every key and value is read once and used by all query heads of its group, so
// that the time is the cache's size over the memory's bandwidth. Keys are cut into chunks of a fixed length, which become
// tasks; each gives a sum of its own, relative to its own maximum, and these are joined in order, so that threads change
// no bit.
#pragma once
#include "attention.h"

MOLT_SIMD_BEGIN

constexpr int64_t kChunk = 256;     // keys a task
constexpr int kTogether = 4;        // query heads, and vectors of values, that stay in registers
constexpr float kLowest = -1e30f;   // the maximum of a chunk that nobody sees

// What a chunk gives for one query head: out[d] = Σ 2^(score − maximum) v, total = Σ 2^(score − maximum).
struct Partial {
  float maximum, total;
};

// scores[kTogether, kChunk] of `count` heads, whose queries lie in queries[count, ld_query], with keys [keys, ld].
template <int Count, class K>
static inline void score_keys(int64_t d, const float* queries, int64_t ld_query, const K* keys, int64_t ld,
                              int64_t length, float* scores) {
  for (int64_t j0 = 0; j0 < length; j0 += kLanes) {
    Vec products[Count][kLanes];
    for (int64_t j = 0; j < kLanes; j++) {
      const K* key = keys + smaller(j0 + j, length - 1) * ld;
      Vec sums[Count] = {};
      for_row(d, [&](auto at) {
        const Vec k = at.load(key);
#pragma GCC unroll 4
        for (int r = 0; r < Count; r++) sums[r] += k * at.load(queries + r * ld_query);
      });
      for (int r = 0; r < Count; r++) products[r][j] = sums[r];
    }
    for (int r = 0; r < Count; r++) store(scores + r * kChunk + j0, sum_each(products[r]));
  }
}

// out[r, d] = Σ_j weights[r, kChunk][j] · values[j, d]
template <int Count, class T>
static inline void weigh_values(int64_t d, const float* weights, const T* values, int64_t ld, int64_t length, float* out,
                                int64_t ld_out) {
  const auto columns = [&](auto vectors, auto at_of) {
    constexpr int Vectors = decltype(vectors)::value;
    Vec sums[Count][Vectors] = {};
    for (int64_t j = 0; j < length; j++) {
      Vec v[Vectors];
      for (int i = 0; i < Vectors; i++) v[i] = at_of(i).load(values + j * ld);
#pragma GCC unroll 4
      for (int r = 0; r < Count; r++)
        for (int i = 0; i < Vectors; i++) sums[r][i] += weights[r * kChunk + j] * v[i];
    }
    for (int r = 0; r < Count; r++)
      for (int i = 0; i < Vectors; i++) at_of(i).store(out + r * ld_out, sums[r][i]);
  };
  int64_t at = 0;
  for (; at + kTogether * kLanes <= d; at += kTogether * kLanes)
    columns(Constant<kTogether>{}, [&](int i) { return Whole{at + i * kLanes}; });
  for (; at + kLanes <= d; at += kLanes) columns(Constant<1>{}, [&](int) { return Whole{at}; });
  if (at < d) columns(Constant<1>{}, [&](int) { return Part{at, d - at}; });
}

// Up to kTogether heads against the keys of one chunk that they see.
template <int Count, class T>
static void attend_chunk(int64_t d, const float* queries, int64_t ld_query, const T* keys, const T* values, int64_t ld,
                         int64_t length, float* out, Partial* partials) {
  alignas(64) float scores[Count * kChunk];
  score_keys<Count>(d, queries, ld_query, keys, ld, length, scores);
  for (int r = 0; r < Count; r++) {
    float* row = scores + r * kChunk;
    Vec highest = splat(kLowest);
    for_row(length, [&](auto at) { highest = max(highest, at.keep(at.load(row), kLowest)); });
    const float maximum = max_lane(highest);
    Vec total{};
    for_row(length, [&](auto at) {
      const Vec power = at.keep(exp2_below_one(at.load(row) - maximum), 0);
      total += power;
      at.store(row, power);
    });
    partials[r] = {maximum, sum(total)};
  }
  weigh_values<Count>(d, scores, values, ld, length, out, d);
}

// Queries [B,T,H,d] (turned and scaled) to the keys and values of a cache, [B,S,G,d] stored alike, S its capacity.
static void attend_cache(Pool& pool, const Attention& a, const float* queries, const Heads& k, const Heads& v,
                         const Heads& o) {
  const int64_t chunks = blocks_of(a.S, kChunk), rep = a.H / a.G;
  Scratch scratch;
  float* outs = scratch.floats(a.B * a.T * chunks * a.H * a.d);
  float* memory = scratch.floats(a.B * a.T * chunks * a.H * 2);
  Partial* partials = reinterpret_cast<Partial*>(memory);
  const auto place = [&](int64_t b, int64_t t, int64_t chunk) { return ((b * a.T + t) * chunks + chunk) * a.H; };

  const double nanoseconds = static_cast<double>(kChunk * a.d * rep) * 0.1;
  for_tasks(pool, a.B * a.T * a.G * chunks, nanoseconds, [&](int64_t i) {
    const int64_t chunk = i % chunks, g = i / chunks % a.G, t = i / (chunks * a.G) % a.T, b = i / (chunks * a.G * a.T);
    const int64_t first = larger(chunk * kChunk, a.first_key(b, t));
    const int64_t length = smaller((chunk + 1) * kChunk, a.end_key(t)) - first;
    for (int64_t r = 0; r < rep;) {
      const int64_t h = g * rep + r, at = place(b, t, chunk) + h;
      const int64_t count = smaller(kTogether, rep - r);
      r += count;
      if (length <= 0) {
        for (int64_t n = 0; n < count; n++) partials[at + n] = {kLowest, 0};
        continue;
      }
      const float* query = queries + ((b * a.T + t) * a.H + h) * a.d;
      k.with(b, g, first, [&](auto* keys) {
        using T = __typeof__(*keys);
        const T* values = static_cast<const T*>(v.at(b, g, first));
        const auto heads = [&](auto constant) {
          attend_chunk<decltype(constant)::value>(a.d, query, a.d, keys, values, k.ld, length, outs + at * a.d,
                                                  partials + at);
        };
        if (count == 1) heads(Constant<1>{});
        if (count == 2) heads(Constant<2>{});
        if (count == 3) heads(Constant<3>{});
        if (count == 4) heads(Constant<4>{});
      });
    }
  });

  for_tasks(pool, a.B * a.T * a.H, static_cast<double>(chunks * a.d) * 0.1, [&](int64_t i) {
    const int64_t h = i % a.H, t = i / a.H % a.T, b = i / (a.H * a.T);
    float maximum = kLowest, total = 0;
    for (int64_t c = 0; c < chunks; c++) {
      const float highest = partials[place(b, t, c) + h].maximum;
      maximum = highest > maximum ? highest : maximum;
    }
    Scratch local;
    float* sums = local.floats(a.d);
    __builtin_memset(sums, 0, a.d * sizeof(float));
    for (int64_t c = 0; c < chunks; c++) {
      const int64_t at = place(b, t, c) + h;
      if (partials[at].total == 0) continue;
      const float shrink = exp2_below_one(splat<FourVec>(partials[at].maximum - maximum))[0];
      total += partials[at].total * shrink;
      for_row(a.d, [&](auto column) {
        column.store(sums, column.load(sums) + column.load(outs + at * a.d) * shrink);
      });
    }
    const float inverse = total > 0 ? 1.0f / total : 0;
    o.with(b, h, t, [&](auto* to) { for_row(a.d, [&](auto at) { at.store(to, at.load(sums) * inverse); }); });
  });
}

MOLT_SIMD_END
