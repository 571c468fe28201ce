// What the forward and the backward of attention share: sizes, and which keys a query sees. Query t sits at key S − T +
// t and sees the keys from start[t] up to itself, at most `window` of them. Head h uses key-value head h / (H / G).
#pragma once
#include "tile.h"

MOLT_SIMD_BEGIN

constexpr int64_t kQueries = 32;  // of a block of scores
constexpr int64_t kKeys = 128;    // of a block: 16 KB of scores

struct Attention {
  int64_t B, T, S, H, G, d;
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

static inline Attention attention_of(const Call& call, const Tensor& q, const Tensor& k, const Tensor& start) {
  return {q.dims[0], q.dims[1],        k.dims[1],        q.dims[2],  k.dims[2],
          q.last(),  call.attr_f32(0), call.attr_int(1), start.i32()};
}

// Head `head` of row b of a [B,length,heads,d] tensor; its rows lie heads · d apart.
static inline float* head_of(const Tensor& x, int64_t b, int64_t head) {
  return x.f32() + (b * x.dims[1] * x.dims[2] + head) * x.dims[3];
}

// All the keys that any query of a block sees: body(first key, number of keys) for each block of keys.
template <class Body>
static inline void for_key_blocks(const Attention& a, int64_t b, int64_t q0, int64_t queries, Body&& body) {
  int64_t first = a.S;
  for (int64_t t = q0; t < q0 + queries; t++) first = smaller(first, a.first_key(b, t));
  const int64_t end = a.end_key(q0 + queries - 1);
  for (int64_t j = first / kPad * kPad; j < end; j += kKeys) body(j, smaller(kKeys, end - j));
}

// About what one query of one head costs when it sees half of the keys.
static inline double nanoseconds_a_query(const Attention& a) {
  return static_cast<double>(a.S) * (2.0 * static_cast<double>(a.d) / kFlopPerNanosecond + 0.1);
}

MOLT_SIMD_END
