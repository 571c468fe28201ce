// Functions of one vector that tfjs's elementwise kernels need beyond vec.h: complete over the whole float range
// (infinities, zeros, NaN), about 1–3 ulp.
#pragma once
#include "vec.h"

MOLT_SIMD_BEGIN

static inline Vec infinity() { return splat(__builtin_inff()); }

template <class To, class From>
static inline To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

// e^x, which vec.h caps near the largest float: the square of e^(x/2) overflows to infinity by itself.
static inline Vec exp_full(Vec x) {
  const auto large = x > 88.0f;
  const Vec e = exp(large ? 0.5f * x : x);
  return large ? e * e : e;
}

// x = m · 2^e with m in [√½, √2); log x = e ln2 + 2 artanh((m − 1) / (m + 1)).
static inline Vec log(Vec x) {
  using Int = IntsOf<Vec>;
  typedef uint32_t Bits __attribute__((vector_size(sizeof(Vec))));  // unsigned: a NaN's bits may overflow
  const auto tiny = x < 1.17549435e-38f;  // denormal, zero or negative
  const Vec scaled = tiny ? x * 8388608.0f : x;
  // Adding the distance from √½ to 1 carries into the exponent exactly when m >= √½.
  const Bits shifted = bits_of<Bits>(scaled) + (0x3F800000u - 0x3F3504F3u);
  const Int exponent = bits_of<Int>(Bits(shifted >> 23)) - 127;
  const Vec m = bits_of<Vec>(Bits((shifted & 0x007FFFFFu) + 0x3F3504F3u));
  const Vec s = (m - 1.0f) / (m + 1.0f), s2 = s * s;
  Vec p = splat(2.0f / 11);
  p = p * s2 + 2.0f / 9;
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  const Vec e = __builtin_convertvector(exponent, Vec) - (tiny ? splat(23.0f) : Vec{});
  // ln2 in two parts, small terms first.
  Vec y = e * 0.693359375f + (s * 2.0f + (s * s2 * p + e * -2.12194440e-4f));
  y = x == infinity() ? x : y;
  y = x == 0.0f ? -infinity() : y;
  return x < 0.0f || x != x ? splat(__builtin_nanf("")) : y;
}

// Kahan: log(u) · x / (u − 1) with u = 1 + x cancels the rounding of u.
static inline Vec log1p(Vec x) {
  const Vec u = 1.0f + x, d = u - 1.0f;
  const Vec y = log(u) * (x / d);
  return d == 0.0f ? x : u == infinity() ? x : x == -1.0f ? -infinity() : y;
}

// Near 0 an odd polynomial, as 1 − 2 / (e^2x + 1) would cancel; elsewhere that.
static inline Vec tanh(Vec x) {
  const Vec a = x < 0.0f ? -x : x, z = x * x;
  Vec p = splat(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  const Vec near = x + x * z * p;
  const Vec far = 1.0f - 2.0f / (exp(2.0f * a) + 1.0f);
  const Vec y = a < 0.625f ? near : x < 0.0f ? -far : far;
  return x != x ? x : y;
}

MOLT_SIMD_END
