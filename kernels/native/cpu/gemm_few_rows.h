// C[M,N] = A[M,K] · B[N,K]ᵀ for few rows, such as one token of a decode: dot products along the rows of B, each of which
// is read once, straight from memory. Copying B into panels would cost more than the product.
#pragma once
#include "gemm.h"
#include "parallel.h"
#include "tile.h"

MOLT_SIMD_BEGIN

constexpr int64_t kFewRows = 3;

template <class TA, class TB>
static void few_rows_of(Pool& pool, const Product& p, const TA* A, int64_t lda, const TB* B) {
  constexpr int group = 4;  // rows of B at a time, to have several chains of additions under way
  const int64_t ldb = p.b.ld;
  const auto finish = [&](int64_t m, int64_t n, float sum) {
    const Result to = p.c.from(m * p.c.ld + n);
    if (p.add != nullptr) sum += p.add[m * p.ld_add + n];
    if (to.dtype == DType::bf16) {
      auto* c = static_cast<Bf16*>(to.data);
      store_part(c, splat<FourVec>(sum) + (p.accumulate ? load_part<FourVec>(c, 1) : FourVec{}), 1);
    } else {
      auto* c = static_cast<float*>(to.data);
      *c = p.accumulate ? sum + *c : sum;
    }
  };
  const auto dots = [&](auto count, int64_t m, int64_t n) {
    constexpr int Count = decltype(count)::value;
    Vec sums[Count] = {};
    for_row(p.K, [&](auto k) {
      const Vec a = k.load(A + m * lda);
#pragma GCC unroll 4
      for (int i = 0; i < Count; i++) sums[i] += a * k.load(B + (n + i) * ldb);
    });
    for (int i = 0; i < Count; i++) finish(m, n + i, sum(sums[i]));
  };
  const double nanoseconds = 2.0 * static_cast<double>(p.M * p.K) / (0.25 * kFlopPerNanosecond) + 4;
  for_row_blocks(pool, blocks_of(p.N, group), group * nanoseconds, [&](int64_t first, int64_t end) {
    for (int64_t g = first; g < end; g++) {
      for (int64_t m = 0; m < p.M; m++) {
        if ((g + 1) * group <= p.N) {
          dots(Constant<group>{}, m, g * group);
        } else {
          for (int64_t n = g * group; n < p.N; n++) dots(Constant<1>{}, m, n);
        }
      }
    }
  });
}

// A rounded to bf16 is a copy: K floats a row.
static void few_rows(Pool& pool, const Product& p) {
  const auto* a = static_cast<const float*>(p.a.data);
  if (p.a.dtype == DType::f32 && p.b.dtype == DType::f32)
    return few_rows_of(pool, p, a, p.a.ld, static_cast<const float*>(p.b.data));
  Scratch scratch;
  if (p.a.dtype == DType::f32) {
    Bf16* rounded = scratch.bf16s(p.M * p.K);
    for (int64_t m = 0; m < p.M; m++)
      for_row(p.K, [&](auto k) { k.store(rounded + m * p.K, k.load(a + m * p.a.ld)); });
    return few_rows_of(pool, p, rounded, p.K, static_cast<const Bf16*>(p.b.data));
  }
  const auto* a16 = static_cast<const Bf16*>(p.a.data);
  if (p.b.dtype == DType::bf16) return few_rows_of(pool, p, a16, p.a.ld, static_cast<const Bf16*>(p.b.data));
  // B is the large one: rounded a panel at a time would be no faster than this
  Bf16* rounded = scratch.bf16s(p.N * p.K);
  const auto* b = static_cast<const float*>(p.b.data);
  for_row_blocks(pool, p.N, 0.1 * static_cast<double>(p.K), [&](int64_t first, int64_t end) {
    for (int64_t n = first; n < end; n++)
      for_row(p.K, [&](auto k) { k.store(rounded + n * p.K, k.load(b + n * p.b.ld)); });
  });
  Product rest = p;
  rest.b = transposed(factor(rounded, p.K));
  few_rows_of(pool, rest, a16, p.a.ld, rounded);
}

MOLT_SIMD_END
