// C[M,N] = A[M,K] · B[N,K]ᵀ for few rows, such as the tokens of one step of decoding: dot products along the rows of B,
// each of which is read once, straight from memory, whose bandwidth is what limits this. Copying B into panels would
// cost more than the product.
#pragma once
#include "gemm_block.h"
#include "parallel.h"

MOLT_SIMD_BEGIN

constexpr int64_t kFewRows = 8;
// Columns [first, end) of C; A has Rows rows in the product's type, zero from K to `lda`. Several ranges of B's rows are
// read at once, each in the order of memory: the hardware fetches ahead along a few long streams, and as many chains of
// additions are under way.
template <class Step, int Rows, class T>
static void dot_products(const Product& p, const typename Step::Element* A, int64_t lda, const T* B, int64_t first,
                         int64_t end) {
  constexpr int streams = Rows <= 4 ? 4 : 2;
  constexpr int64_t at_once = kLanes * Step::kPerWord;
  const int64_t range = round_up(blocks_of(end - first, streams), kLanes);
  const Ends ends{nullptr, 0, p.add, p.ld_add, p.accumulate, p.c};
  for (int64_t from = first; from < first + range; from += kLanes) {
    Vec dots[streams][Rows][kLanes];
    for (int64_t column = 0; column < kLanes; column++) {
      const T* row[streams];
      // beyond the end the last row once more, for nothing
      for (int s = 0; s < streams; s++) row[s] = B + smaller(from + s * range + column, end - 1) * p.b.ld;
      Vec sums[streams][Rows] = {};
      const auto add = [&](int64_t k, auto&& words_of) __attribute__((always_inline)) {
        Vec b[streams];
#pragma GCC unroll 4
        for (int s = 0; s < streams; s++) {
          if constexpr (streams < 4) __builtin_prefetch(row[s] + k + 2048 / sizeof(T));
          b[s] = words_of(row[s] + k);
        }
#pragma GCC unroll 8
        for (int i = 0; i < Rows; i++) {
          const Vec a = load_words<Vec>(A + i * lda + k);
#pragma GCC unroll 4
          for (int s = 0; s < streams; s++) sums[s][i] = Step::multiply_add(sums[s][i], a, b[s]);
        }
      };
      int64_t k = 0;
      for (; k + at_once <= p.K; k += at_once) add(k, [](const T* words) { return words_along_k<Step, Vec>(words); });
      if (k < p.K) add(k, [&](const T* words) { return words_along_k_part<Step, Vec>(words, p.K - k); });
#pragma GCC unroll 4
      for (int s = 0; s < streams; s++) {
#pragma GCC unroll 8
        for (int i = 0; i < Rows; i++) dots[s][i][column] = sums[s][i];
      }
    }
    for (int s = 0; s < streams; s++) {
      const int64_t n = from + s * range, columns = smaller(kLanes, end - n);
      for (int64_t i = 0; i < smaller(Rows, p.M) && columns > 0; i++) {
        Vec totals[1][1] = {{sum_each(dots[s][i])}};
        finish(totals, ends.at(i, n), columns);
      }
    }
  }
}

template <class Step>
static void few_rows(Pool& pool, const Product& p) {
  const int rows = p.M <= 2 ? static_cast<int>(p.M) : p.M <= 4 ? 4 : 8;
  const int64_t lda = round_up(p.K, kLanes * Step::kPerWord);
  Scratch scratch;
  auto* A = room_for<Step>(scratch, rows * lda);
  with_elements(p.a, [&](auto* from) { pack_rows<Step>(from, p.a.ld, p.M, p.K, A, lda); });
  __builtin_memset(A + p.M * lda, 0, (rows - p.M) * lda * sizeof(*A));
  with_elements(p.b, [&](auto* B) {
    const auto dots = [&](auto count) {
      constexpr int Rows = decltype(count)::value;
      // fixed blocks of columns, about as long as a thread is worth; ten bytes come from memory in a nanosecond
      const double nanoseconds = static_cast<double>(p.K) * sizeof(*B) / 10 + 2 * Rows;
      const int64_t block = round_up(larger(1, static_cast<int64_t>(kWorthAThread / nanoseconds)), 4 * kLanes);
      for_tasks(pool, blocks_of(p.N, block), nanoseconds * static_cast<double>(block), [&](int64_t task) {
        dot_products<Step, Rows>(p, A, lda, B, task * block, smaller(p.N, (task + 1) * block));
      });
    };
    if (rows == 1) return dots(Constant<1>{});
    if (rows == 2) return dots(Constant<2>{});
    if (rows == 4) return dots(Constant<4>{});
    dots(Constant<8>{});
  });
}

MOLT_SIMD_END
