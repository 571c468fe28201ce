// Vectors of float for the instruction set this file is compiled for, written with the compiler's vector extensions so
// that one text serves SSE2, AVX2, AVX-512 and NEON: 4, 8 or 16 lanes. Arithmetic operators come with the type; here
// are the loads, the reductions and the few functions (exp, log1p) that kernels need without calling libm per element.
#pragma once
#include "simd.h"

#if defined(__AVX2__)
#include <immintrin.h>
#endif

MOLT_SIMD_BEGIN

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

template <int L>
struct VecOf {
  typedef float Float __attribute__((vector_size(L * 4)));
  typedef int32_t Int __attribute__((vector_size(L * 4)));
};

using Vec = VecOf<kLanes>::Float;
using FourVec = VecOf<4>::Float;
using HalfVec = VecOf<(kLanes > 4 ? kLanes / 2 : 4)>::Float;
// Squares of this many rows are transposed in registers.
using BlockVec = VecOf<(kLanes > 4 ? 8 : 4)>::Float;

template <class V>
constexpr int lanes_of = sizeof(V) / sizeof(float);
template <class V>
using IntsOf = typename VecOf<lanes_of<V>>::Int;

template <int N>
struct Constant {
  static constexpr int value = N;
};

template <class A, class B>
constexpr bool is_same = false;
template <class A>
constexpr bool is_same<A, A> = true;

// Rows of scratch matrices are padded to this many floats, so that small products need no tails.
constexpr int64_t kPad = 8;

static inline int64_t round_up(int64_t n, int64_t step) { return (n + step - 1) / step * step; }
static inline int64_t blocks_of(int64_t n, int64_t block) { return (n + block - 1) / block; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

// Minus, not plus: x - 0 is x for every x, so the compiler leaves it out, while -0 + 0 is +0 and costs an addition.
template <class V = Vec>
static inline V splat(float value) {
  return value - V{};
}

template <class V = Vec>
static inline V load(const float* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V>
static inline void store(float* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// bf16 in memory, float in registers: what every kernel does with tensors that are stored so. Stores round to the
// nearest, ties to even, and keep NaN a NaN.
template <int L>
struct HalvesOf {
  typedef uint16_t Half __attribute__((vector_size(L * 2)));
  typedef uint32_t Bits __attribute__((vector_size(L * 4)));
};

template <class V>
static inline V widen(typename HalvesOf<lanes_of<V>>::Half half) {
#if defined(__AVX512F__)
  // g++ widens the two halves of the vector one after the other
  if constexpr (lanes_of<V> == 16) {
    __m256i halves;
    __builtin_memcpy(&halves, &half, sizeof halves);
    return (V)((typename HalvesOf<16>::Bits)_mm512_maskz_cvtepu16_epi32(0xffff, halves) << 16);
  }
#endif
  using Bits = typename HalvesOf<lanes_of<V>>::Bits;
  const Bits bits = __builtin_convertvector(half, Bits) << 16;
  V v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

template <class V>
static inline typename HalvesOf<lanes_of<V>>::Half narrow(V v) {
  using Half = typename HalvesOf<lanes_of<V>>::Half;
#if defined(__AVX512BF16__)
  if constexpr (lanes_of<V> == 16) {
    const __m256bh rounded = _mm512_cvtneps_pbh((__m512)v);
    Half half;
    __builtin_memcpy(&half, &rounded, sizeof half);
    return half;
  }
#endif
  using Bits = typename HalvesOf<lanes_of<V>>::Bits;
  Bits bits;
  __builtin_memcpy(&bits, &v, sizeof bits);
  const Bits rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  const Bits kept = v == v ? rounded : (bits | 0x400000u);
  return __builtin_convertvector(kept >> 16, Half);
}

template <class V = Vec>
static inline V load(const Bf16* from) {
  typename HalvesOf<lanes_of<V>>::Half half;
  __builtin_memcpy(&half, from, sizeof half);
  return widen<V>(half);
}

template <class V>
static inline void store(Bf16* to, V v) {
  const auto half = narrow(v);
  __builtin_memcpy(to, &half, sizeof half);
}

template <class V = Vec>
static inline V load_part(const Bf16* from, int64_t count) {
  typename HalvesOf<lanes_of<V>>::Half half{};
#if defined(__AVX512F__)
  if constexpr (lanes_of<V> == 16) {
    const __m256i loaded = _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), from);
    __builtin_memcpy(&half, &loaded, sizeof half);
    return widen<V>(half);
  }
#endif
  for (int i = 0; i < lanes_of<V>; i++)
    if (i < count) half[i] = from[i].bits;
  return widen<V>(half);
}

template <class V>
static inline void store_part(Bf16* to, V v, int64_t count) {
  const auto half = narrow(v);
#if defined(__AVX512F__)
  if constexpr (lanes_of<V> == 16) {
    __m256i stored;
    __builtin_memcpy(&stored, &half, sizeof stored);
    return _mm256_mask_storeu_epi16(to, static_cast<__mmask16>((1u << count) - 1), stored);
  }
#endif
  for (int i = 0; i < lanes_of<V>; i++)
    if (i < count) to[i].bits = half[i];
}

// Calls body(pointer) with the type that the tensor is stored in, so that one kernel text serves both.
template <class Body>
static inline void with_stored(const Tensor& tensor, Body&& body) {
  if (tensor.is_bf16()) return body(tensor.bf16());
  body(tensor.f32());
}

template <class V>
static inline IntsOf<V> lane_numbers() {
  IntsOf<V> n;
  for (int i = 0; i < lanes_of<V>; i++) n[i] = i;
  return n;
}

// The first `count` < lanes floats; the other lanes are zero (load) or left alone in memory (store). Rows rarely end on
// a whole vector, so these use the masked moves that AVX2 and AVX-512 have.
template <class V = Vec>
static inline V load_part(const float* from, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (lanes_of<V> == 16) return (V)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#endif
#if defined(__AVX2__)
  if constexpr (lanes_of<V> == 8)
    return (V)_mm256_maskload_ps(from, (__m256i)(lane_numbers<V>() < static_cast<int>(count)));
#endif
  V v{};
  for (int i = 0; i < lanes_of<V>; i++)
    if (i < count) v[i] = from[i];
  return v;
}

template <class V>
static inline void store_part(float* to, V v, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (lanes_of<V> == 16)
    return _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
#endif
#if defined(__AVX2__)
  if constexpr (lanes_of<V> == 8)
    return _mm256_maskstore_ps(to, (__m256i)(lane_numbers<V>() < static_cast<int>(count)), (__m256)v);
#endif
  for (int i = 0; i < lanes_of<V>; i++)
    if (i < count) to[i] = v[i];
}

// Where a loop over a row stands: `Whole` lanes in its body, `Part` of a vector at its end.
struct Whole {
  int64_t at;
  template <class T>
  Vec load(const T* row) const {
    return molt::MOLT_LEVEL::load<Vec>(row + at);
  }
  template <class T>
  void store(T* row, Vec v) const {
    molt::MOLT_LEVEL::store(row + at, v);
  }
  Vec keep(Vec v, float) const { return v; }
};

struct Part {
  int64_t at;
  int64_t count;
  template <class T>
  Vec load(const T* row) const {
    return load_part<Vec>(row + at, count);
  }
  template <class T>
  void store(T* row, Vec v) const {
    store_part(row + at, v, count);
  }
  // Puts `neutral` into the lanes beyond the end of the row.
  Vec keep(Vec v, float neutral) const { return lane_numbers<Vec>() < static_cast<int>(count) ? v : splat(neutral); }
};

// Calls body(Whole or Part) over a row of n floats, left to right.
template <class Body>
static inline void for_row(int64_t n, Body&& body) {
  int64_t at = 0;
  for (; at + kLanes <= n; at += kLanes) body(Whole{at});
  if (at < n) body(Part{at, n - at});
}

// The lanes of a (and of b, counted on from a's last) that `from` names. g++ has a function for it; clang++'s wants
// constants, so it gets a loop, which it turns into the same instructions in most places.
template <class V>
static inline V pick(V a, V b, IntsOf<V> from) {
#if defined(__clang__)
  V picked;
  for (int i = 0; i < lanes_of<V>; i++) picked[i] = from[i] < lanes_of<V> ? a[from[i]] : b[from[i] - lanes_of<V>];
  return picked;
#else
  return __builtin_shuffle(a, b, from);
#endif
}

template <class V>
static inline V pick(V a, IntsOf<V> from) {
  return pick(a, a, from);
}

// Sum and maximum over the lanes, as a tree: lane i meets lane i xor 8, 4, 2, 1.
template <class V>
static inline float sum(V v) {
  for (int step = lanes_of<V> / 2; step > 0; step /= 2) v += pick(v, lane_numbers<V>() ^ step);
  return v[0];
}

template <class V>
static inline V max(V a, V b) {
  return a > b ? a : b;
}

template <class V>
static inline float max_lane(V v) {
  for (int step = lanes_of<V> / 2; step > 0; step /= 2) v = max(v, pick(v, lane_numbers<V>() ^ step));
  return v[0];
}

// Whether a comparison holds in any lane.
template <class V>
static inline bool any(IntsOf<V> lanes) {
#if defined(__AVX512F__)
  if constexpr (lanes_of<V> == 16) return _mm512_test_epi32_mask((__m512i)lanes, (__m512i)lanes) != 0;
#endif
#if defined(__AVX2__)
  if constexpr (lanes_of<V> == 8) return _mm256_movemask_ps((__m256)lanes) != 0;
#endif
  int32_t together = 0;
  for (int i = 0; i < lanes_of<V>; i++) together |= lanes[i];
  return together != 0;
}

// e^x for x in [-87.33, 88.37], to about 1 ulp: x = n ln2 + r with |r| <= ln2/2, e^r by a polynomial (minimax for
// degree 6 with 1 + r fixed, relative error 3e-9), 2^n added to the exponent bits. NaN stays NaN.
template <class V>
static inline V exp_in_range(V x) {
  const float round = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer that sits in the low mantissa bits
  const V shifted = x * 1.44269504088896341f + round;
  const V n = shifted - round;
  // ln2 in two parts: the high one has trailing zeros, so that n times it is exact
  V r = x - n * 0.693359375f;
  r = r - n * -2.12194440e-4f;
  V p = r * 1.3814467238e-3f + 8.3687808365e-3f;
  p = p * r + 4.1668392718e-2f;
  p = p * r + 1.6666519642e-1f;
  p = p * r + 4.9999994040e-1f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  IntsOf<V> exponent, bits;
  __builtin_memcpy(&exponent, &shifted, sizeof exponent);
  __builtin_memcpy(&bits, &p, sizeof bits);
  bits += exponent << 23;
  __builtin_memcpy(&p, &bits, sizeof p);
  return p;
}

// e^x for x <= 0, such as a score less its maximum. Never smaller than 1e-38, which a sum of them does not feel and
// which spares the arithmetic from denormal numbers.
template <class V>
static inline V exp_below_one(V x) {
  return exp_in_range(x < -87.33f ? splat<V>(-87.33f) : x);
}

// e^x: 0 below -87.33, capped just under the largest float above 88.37.
template <class V>
static inline V exp(V x) {
  const V capped = x > 88.37f ? splat<V>(88.37f) : x;
  return x < -87.33f ? V{} : exp_in_range(capped < -87.33f ? splat<V>(-87.33f) : capped);
}

// 2^x for x <= 0, such as a score less its maximum, both in units of log 2: x = n + r with |r| <= 1/2, 2^r by a
// polynomial (minimax for degree 5 with 2^0 = 1, relative error 1e-7). Below 2^-126 it is 0 or 2^-126. NaN stays NaN.
template <class V>
static inline V exp2_below_one(V x) {
  const auto polynomial = [](V r) {
    V p = r * 1.3264727e-3f + 9.671513e-3f;
    p = p * r + 5.5507336e-2f;
    p = p * r + 2.4022242e-1f;
    p = p * r + 6.9314700e-1f;
    return p * r + 1.0f;
  };
#if defined(__AVX512F__)
  if constexpr (lanes_of<V> == 16) {
    // the forms with a mask of all lanes: g++ 12 warns of the others
    const __mmask16 every = 0xffff;
    const __m512 n = _mm512_maskz_roundscale_ps(every, (__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    return (V)_mm512_maskz_scalef_ps(every, (__m512)polynomial(x - (V)n), n);
  }
#endif
  const float round = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer that sits in the low mantissa bits
  const V capped = x < -126.0f ? splat<V>(-126.0f) : x;
  const V shifted = capped + round;
  V p = polynomial(capped - (shifted - round));
  IntsOf<V> exponent, bits;
  __builtin_memcpy(&exponent, &shifted, sizeof exponent);
  __builtin_memcpy(&bits, &p, sizeof bits);
  bits += exponent << 23;
  __builtin_memcpy(&p, &bits, sizeof p);
  return p;
}

template <class V>
static inline V sigmoid(V x) {
  return 1.0f / (1.0f + exp(-x));
}

// The same, in a few multiplications while every lane is within 1/4, as all are after a nearly linear φ: the series to
// x^7, whose next term is below 1e-10. A lane's result does not depend on the others.
template <class V>
static inline V sigmoid_near_zero(V x) {
  const V x2 = x * x;
  const V near = 0.5f + x * (0.25f + x2 * (-1.0f / 48 + x2 * (1.0f / 480 - x2 * (17.0f / 80640))));
  const auto far = !(x2 <= 0.0625f);  // NaN too
  if (!any<V>(far)) return near;
  return far ? sigmoid(x) : near;
}

// log(1 + z) for z in [0, 1]: 2 artanh(s) with s = z / (2 + z) <= 1/3, as its series to s^15.
template <class V>
static inline V log1p_unit(V z) {
  const V s = z / (2.0f + z), s2 = s * s;
  V p = splat<V>(1.0f / 15);
  p = p * s2 + 1.0f / 13;
  p = p * s2 + 1.0f / 11;
  p = p * s2 + 1.0f / 9;
  p = p * s2 + 1.0f / 7;
  p = p * s2 + 1.0f / 5;
  p = p * s2 + 1.0f / 3;
  p = p * s2 + 1.0f;
  return 2.0f * s * p;
}

// log(1 + e^x) = max(x, 0) + log1p(e^-|x|), which neither overflows nor loses small values.
template <class V>
static inline V softplus(V x) {
  const V magnitude = x < 0.0f ? -x : x;
  return (x > 0.0f ? x : V{}) + log1p_unit(exp_below_one(-magnitude));
}

// Needs -fno-math-errno to become one instruction.
template <class V>
static inline V sqrt(V x) {
  V root;
  for (int i = 0; i < lanes_of<V>; i++) root[i] = __builtin_sqrtf(x[i]);
  return root;
}

MOLT_SIMD_END
