// Half rotation of one head, for the RoPE kernel and for attention, which rotates while it loads: dimension i turns with
// dimension i + d/2.
#pragma once
#include "vec.h"

MOLT_SIMD_BEGIN

// Tables of cos and sin, [positions, d/2] each, and the position of every token. Without positions nothing turns.
struct Rotation {
  const int32_t* position = nullptr;  // [B, T]
  const float* cosine = nullptr;
  const float* sine = nullptr;
};

// to[d] = scale · from[d], turned by the row of the tables; `direction` −1 turns back.
template <class From, class To>
static inline void rotate(int64_t d, const From* from, const float* cosine, const float* sine, float direction,
                          float scale, To* to) {
  const int64_t half = d / 2;
  for_row(half, [&](auto at) {
    const Vec c = at.load(cosine) * scale, s = at.load(sine) * (direction * scale);
    const Vec first = at.load(from), second = at.load(from + half);
    at.store(to, first * c - second * s);
    at.store(to + half, second * c + first * s);
  });
}

// The same for token `token` of all tokens of the batch, or only scaled if nothing turns.
template <class From, class To>
static inline void rotate_token(int64_t d, const From* from, const Rotation& rotation, int64_t token, float direction,
                                float scale, To* to) {
  if (rotation.position == nullptr) {
    for_row(d, [&](auto at) { at.store(to, at.load(from) * scale); });
  } else {
    const int64_t row = rotation.position[token] * (d / 2);
    rotate(d, from, rotation.cosine + row, rotation.sine + row, direction, scale, to);
  }
}

MOLT_SIMD_END
