// Matrix products of whole matrices: k and the columns are cut into blocks that fit the caches, B is copied into panels
// where its rows do not lie as the tile wants them, and blocks of rows are spread over the pool.
#include "parallel.h"
#include "tile.h"

MOLT_SIMD_BEGIN

// Blocks of the large product. A panel of B, depth × 2 vectors, comes from the nearest caches while rows pass by it; the
// copied panels of one block, depth × kColumns, stay in the second level. K is cut into equal depths of at most kDepth:
// a short last block would cost as many passes over C as a long one.
constexpr int64_t kDepth = 384;
constexpr int64_t kColumns = 512;
constexpr int64_t kRowsPerTask = 64;

// A panel of op(B): `depth` rows of `width` floats, zero beyond `columns`.
static void copy_panel(bool transB, int64_t depth, int64_t columns, int64_t width, const float* B, int64_t ldb,
                       float* to) {
  if (transB) {
    transpose(columns, depth, B, ldb, to, width);
  } else {
    for (int64_t k = 0; k < depth; k++) __builtin_memcpy(to + k * width, B + k * ldb, columns * sizeof(float));
  }
  for (int64_t k = 0; columns < width && k < depth; k++)
    for (int64_t j = columns; j < width; j++) to[k * width + j] = 0;
}

// C[M,N] = or += A[M,K] · B[N,K]ᵀ for few rows, such as one token of a decode: dot products along the rows of B, each
// of which is read once. Copying B into panels would cost more than the product.
static void few_rows(Pool& pool, int64_t M, int64_t N, int64_t K, const float* A, int64_t lda, const float* B,
                     int64_t ldb, float* C, int64_t ldc, bool accumulate) {
  constexpr int group = 4;  // rows of B at a time, to have several chains of additions under way
  const auto dots = [&](auto count, int64_t m, int64_t n) {
    constexpr int Count = decltype(count)::value;
    Vec sums[Count] = {};
    for_row(K, [&](auto k) {
      const Vec a = k.load(A + m * lda);
#pragma GCC unroll 4
      for (int i = 0; i < Count; i++) sums[i] += a * k.load(B + (n + i) * ldb);
    });
    for (int i = 0; i < Count; i++) {
      float& c = C[m * ldc + n + i];
      c = accumulate ? c + sum(sums[i]) : sum(sums[i]);
    }
  };
  const double nanoseconds = 2.0 * static_cast<double>(M * K) / (0.25 * kFlopPerNanosecond) + 4;
  for_row_blocks(pool, blocks_of(N, group), group * nanoseconds, [&](int64_t first, int64_t end) {
    for (int64_t g = first; g < end; g++) {
      for (int64_t m = 0; m < M; m++) {
        if ((g + 1) * group <= N) {
          dots(Constant<group>{}, m, g * group);
        } else {
          for (int64_t n = g * group; n < N; n++) dots(Constant<1>{}, m, n);
        }
      }
    }
  });
}

struct Panel {
  const float* data;
  int64_t ld;
  int64_t first;  // column of C
  int64_t columns;
  int64_t width;
};

void gemm(Pool& pool, bool transA, bool transB, int64_t M, int64_t N, int64_t K, const float* A, int64_t lda,
          const float* B, int64_t ldb, float* C, int64_t ldc, bool accumulate) {
  if (M <= 0 || N <= 0) return;
  if (K <= 0) {
    for (int64_t i = 0; i < M && !accumulate; i++) __builtin_memset(C + i * ldc, 0, N * sizeof(float));
    return;
  }
  if (M <= 3 && !transA && transB) return few_rows(pool, M, N, K, A, lda, B, ldb, C, ldc, accumulate);

  constexpr int64_t most_panels = kColumns / (2 * kLanes) + 2;
  const int64_t block_depth = blocks_of(K, blocks_of(K, kDepth));
  // Rows of B that lie as the tile wants them are used in place while the block is small or few rows of A read it.
  const bool copy_all = transB || (block_depth * smaller(N, kColumns) > 32768 && M > kRowsPerTask);
  Scratch scratch;
  float* copies = scratch.floats(block_depth * round_up(smaller(N, kColumns), 2 * kLanes));

  for (int64_t n0 = 0; n0 < N; n0 += kColumns) {
    const int64_t columns = smaller(kColumns, N - n0);
    for (int64_t k0 = 0; k0 < K; k0 += block_depth) {
      const int64_t depth = smaller(block_depth, K - k0);
      const float* a = transA ? A + k0 * lda : A + k0;
      const float* b = transB ? B + n0 * ldb + k0 : B + k0 * ldb + n0;

      Panel panels[most_panels];
      int64_t count = 0;
      for (int64_t j = 0; j < columns;) {
        const int64_t width = panel_width(columns - j), present = smaller(width, columns - j);
        const bool copy = copy_all || present < width;
        panels[count++] = {copy ? copies + j * depth : b + j, copy ? width : ldb, j, present, width};
        j += width;
      }
      for_tasks(pool, count, static_cast<double>(depth) * 2 * kLanes / 2, [&](int64_t p) {
        const Panel& to = panels[p];
        const float* from = transB ? b + to.first * ldb : b + to.first;
        if (to.data != from) copy_panel(transB, depth, to.columns, to.width, from, ldb, copies + to.first * depth);
      });

      // Tasks: blocks of rows, and groups of panels when there are few rows.
      const bool add = accumulate || k0 > 0;
      const int64_t row_blocks = blocks_of(M, kRowsPerTask);
      const double panel_cost =
          2.0 * static_cast<double>(smaller(M, kRowsPerTask) * depth * 2 * kLanes) / kFlopPerNanosecond;
      const int64_t group = larger(1, smaller(count, static_cast<int64_t>(kWorthAThread / panel_cost)));
      const int64_t groups = blocks_of(count, group);
      for_tasks(pool, row_blocks * groups, panel_cost * static_cast<double>(group), [&](int64_t task) {
        const int64_t i0 = task / groups * kRowsPerTask, rows = smaller(kRowsPerTask, M - i0);
        const int64_t first = task % groups * group;
        for (int64_t p = first; p < smaller(count, first + group); p++) {
          const Panel& from = panels[p];
          float* c = C + i0 * ldc + n0 + from.first;
          const auto multiply = transA ? panel_of_width<Order::columns> : panel_of_width<Order::rows>;
          multiply(from.width, rows, depth, a + i0 * (transA ? 1 : lda), lda, from.data, from.ld, c, ldc, from.columns,
                   add);
        }
      });
    }
  }
}

MOLT_SIMD_END
