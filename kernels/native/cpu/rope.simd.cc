// Rotary position embedding, half rotation: dimension i of a head turns with dimension i + d/2, by the angle in row
// `position` of the tables. The gradient is the rotation backwards.
#include "parallel.h"

MOLT_SIMD_BEGIN

template <class V>
static inline void rotate(int64_t half, const float* x, const float* cosine, const float* sine, float direction,
                          float* y) {
  for (int64_t i = 0; i < half; i += lanes_of<V>) {
    const V c = load<V>(cosine + i), s = load<V>(sine + i) * direction;
    const V first = load<V>(x + i), second = load<V>(x + half + i);
    store(y + i, first * c - second * s);
    store(y + half + i, second * c + first * s);
  }
}

// {x[B,T,H,d], position[B,T], cos[M,d/2], sin[M,d/2]} [inverse] → y[B,T,H,d]
static void rope(const Call& call) {
  const Tensor& x = call.in[0];
  const int32_t* position = call.in[1].i32();
  const float *cosine = call.in[2].f32(), *sine = call.in[3].f32();
  float* y = call.out[0].f32();
  const float direction = call.attr_int(0) != 0 ? -1.0f : 1.0f;
  const int64_t d = x.last(), H = x.last(1), half = d / 2, tokens = x.size() / (d * H);
  for_row_blocks(*call.pool, tokens, 0.25 * static_cast<double>(H * d), [&](int64_t first, int64_t end) {
    for (int64_t t = first; t < end; t++) {
      const float *c = cosine + position[t] * half, *s = sine + position[t] * half;
      for (int64_t h = 0; h < H; h++) {
        const int64_t at = (t * H + h) * d;
        if (half % kLanes == 0) {
          rotate<Vec>(half, x.f32() + at, c, s, direction, y + at);
        } else if (half % 4 == 0) {
          rotate<FourVec>(half, x.f32() + at, c, s, direction, y + at);
        } else {
          for (int64_t i = at; i < at + half; i++) {
            const float first_half = x.f32()[i], second_half = x.f32()[i + half];
            y[i] = first_half * c[i - at] - second_half * direction * s[i - at];
            y[i + half] = second_half * c[i - at] + first_half * direction * s[i - at];
          }
        }
      }
    }
  });
}

MOLT_KERNEL("Rope", rope);

MOLT_SIMD_END
