// The register tile of every matrix product: a few rows of A times one or two vectors of columns of B, summed over k.
// `product` puts tiles together on the calling thread and without copies; attention and the scan use it on their
// blocks. gemm.simd.cc has blocks, stores and bf16 for whole matrices around the same sums.
//
// Each element of C is one chain of multiply-adds in the order of k: where the tiles lie does not change its bits.
#pragma once
#include "vec.h"

MOLT_SIMD_BEGIN

// Tile height: 2 · rows accumulators must fit the registers (32 of AVX-512 and NEON, 16 of SSE and AVX2).
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRows = 8;
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
#else
constexpr int kTileRows = 4;
#endif

// About what one core computes, for deciding how many tasks a product is worth.
constexpr double kFlopPerNanosecond = 5.0 * kLanes;

// How A is read: `rows` A[i·lda + k] as stored, `columns` A[k·lda + i] for a transposed A.
enum class Order { rows, columns };

// What one step along k does with a 32-bit word of each factor: a float, or two neighbours along k in bf16. A is read
// where it lies, then the neighbours must be neighbours in memory; B lies as rows of words.
struct Floats {
  using Element = float;
  static constexpr int kPerWord = 1;
  static constexpr int kStepsAtOnce = 1;
  template <class V>
  MOLT_INLINE static V multiply_add(V sum, V a, V b) {
    return sum + a * b;
  }
};

// Floats that hold values of bf16: what a product of bf16 is without instructions for it.
struct RoundedFloats : Floats {};

#if defined(__AVX512BF16__)
struct Bf16Pairs {
  using Element = Bf16;
  static constexpr int kPerWord = 2;
  static constexpr int kStepsAtOnce = 1;
  template <class V>
  MOLT_INLINE static V multiply_add(V sum, V a, V b) {
    if constexpr (lanes_of<V> == 16) {
      return (V)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
    } else {
      return (V)_mm256_dpbf16_ps((__m256)sum, (__m256bh)a, (__m256bh)b);
    }
  }
};
#endif

#if defined(__AMX_BF16__)
// The same words for the tiles of AMX, which take 16 steps at once (gemm_amx.h).
struct Bf16Tiles {
  using Element = Bf16;
  static constexpr int kPerWord = 2;
  static constexpr int kStepsAtOnce = 16;
};
#endif

// The word that begins at an element.
template <class Element>
MOLT_INLINE float load_word(const Element* from) {
  float word;
  __builtin_memcpy(&word, from, sizeof word);
  return word;
}

template <class V, class Element>
MOLT_INLINE V load_words(const Element* from) {
  V v;
  __builtin_memcpy(&v, from, sizeof v);
  return v;
}

template <class V, class Element>
MOLT_INLINE void store_words(Element* to, V v) {
  __builtin_memcpy(to, &v, sizeof v);
}

// sums[Rows][Vectors] += A · B over `steps` words of k. Leading dimensions count elements.
template <class Step, Order order, class V, int Rows, int Vectors>
MOLT_INLINE void add_products(V (&sums)[Rows][Vectors], int64_t steps, const typename Step::Element* A, int64_t lda,
                              const typename Step::Element* B, int64_t ldb) {
  constexpr int word = Step::kPerWord;
  const int64_t next_row = order == Order::rows ? lda : word, next_step = order == Order::rows ? word : lda;
  const typename Step::Element* row[Rows];
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++) row[i] = A + i * next_row;
  for (int64_t step = 0; step < steps; step++) {
    V b[Vectors];
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) b[j] = load_words<V>(B + j * lanes_of<V> * word);
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
      const V a = splat<V>(load_word(order == Order::rows ? row[i] + step * word : A + i * word));
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) sums[i][j] = Step::multiply_add(sums[i][j], a, b[j]);
    }
    B += ldb;
    if (order == Order::columns) A += next_step;
  }
}

// C[Rows, Vectors · lanes] = or += A · B. Only the first `columns` columns of C exist; B must have them all in memory.
template <class Step, class V, int Rows, int Vectors, Order order>
static inline void tile(int64_t steps, const typename Step::Element* A, int64_t lda, const typename Step::Element* B,
                        int64_t ldb, float* C, int64_t ldc, int64_t columns, bool accumulate) {
  constexpr int lanes = lanes_of<V>;
  V sums[Rows][Vectors] = {};
  add_products<Step, order>(sums, steps, A, lda, B, ldb);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) {
      float* c = C + i * ldc + j * lanes;
      const int64_t count = columns - j * lanes;
      if (count >= lanes) {
        store(c, accumulate ? load<V>(c) + sums[i][j] : sums[i][j]);
      } else if (count > 0) {
        store_part(c, accumulate ? load_part<V>(c, count) + sums[i][j] : sums[i][j], count);
      }
    }
  }
}

// All M rows of one panel of columns.
template <class Step, class V, int Vectors, Order order>
static void panel(int64_t M, int64_t steps, const typename Step::Element* A, int64_t lda,
                  const typename Step::Element* B, int64_t ldb, float* C, int64_t ldc, int64_t columns,
                  bool accumulate) {
  const int64_t next_row = order == Order::rows ? lda : Step::kPerWord;
  int64_t i = 0;
  const auto rest = [&](auto rows) {
    constexpr int Rows = decltype(rows)::value;
    for (; i + Rows <= M; i += Rows)
      tile<Step, V, Rows, Vectors, order>(steps, A + i * next_row, lda, B, ldb, C + i * ldc, ldc, columns, accumulate);
  };
  rest(Constant<kTileRows>{});
  if constexpr (kTileRows > 4) rest(Constant<4>{});
  rest(Constant<2>{});
  rest(Constant<1>{});
}

// Columns are cut into panels of two vectors, then one, then a last one that may be half a vector.
static inline int64_t panel_width(int64_t columns) {
  if (columns >= 2 * kLanes) return 2 * kLanes;
  return columns > kLanes / 2 || kLanes < 8 ? kLanes : kLanes / 2;
}

template <class Step, Order order>
static inline void panel_of_width(int64_t width, int64_t M, int64_t steps, const typename Step::Element* A, int64_t lda,
                                  const typename Step::Element* B, int64_t ldb, float* C, int64_t ldc, int64_t columns,
                                  bool accumulate) {
  if (width == 2 * kLanes) {
    panel<Step, Vec, 2, order>(M, steps, A, lda, B, ldb, C, ldc, columns, accumulate);
  } else if (width == kLanes) {
    panel<Step, Vec, 1, order>(M, steps, A, lda, B, ldb, C, ldc, columns, accumulate);
  } else {
    panel<Step, HalfVec, 1, order>(M, steps, A, lda, B, ldb, C, ldc, columns, accumulate);
  }
}

// C[M,N] = or += op(A) · B on the calling thread over so many steps of k, for small factors. B is [steps, N] words and
// its rows, like C's, must be padded in memory to a multiple of kPad columns; the padding of C is overwritten.
template <class Step, Order order>
static inline void product_of(int64_t M, int64_t N, int64_t steps, const typename Step::Element* A, int64_t lda,
                              const typename Step::Element* B, int64_t ldb, float* C, int64_t ldc, bool accumulate) {
  N = round_up(N, kPad);
  for (int64_t j = 0; j < N;) {
    const int64_t width = panel_width(N - j);
    panel_of_width<Step, order>(width, M, steps, A, lda, B + j * Step::kPerWord, ldb, C + j, ldc, width, accumulate);
    j += width;
  }
}

// The same for matrices of floats.
template <Order order = Order::rows>
static inline void product(int64_t M, int64_t N, int64_t K, const float* A, int64_t lda, const float* B, int64_t ldb,
                           float* C, int64_t ldc, bool accumulate = false) {
  product_of<Floats, order>(M, N, K, A, lda, B, ldb, C, ldc, accumulate);
}

// Transposes a square of vectors in place: in step s, lane blocks of size s swap across the diagonal.
template <class V>
static inline void transpose_square(V (&rows)[lanes_of<V>]) {
  constexpr int lanes = lanes_of<V>;
  const IntsOf<V> lane = lane_numbers<V>();
#pragma GCC unroll 4
  for (int s = 1; s < lanes; s *= 2) {
    // an index of `lanes` or more picks from the second operand of the shuffle
    const IntsOf<V> upper = (lane & s) == 0 ? lane : lane - s + lanes;
    const IntsOf<V> lower = (lane & s) == 0 ? lane + s : lane + lanes;
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i++) {
      if ((i & s) != 0) continue;
      const V a = rows[i], b = rows[i + s];
      rows[i] = pick(a, b, upper);
      rows[i + s] = pick(a, b, lower);
    }
  }
}

// The sums over the lanes of each of the vectors, in one vector: lane i is the sum of rows[i]. Overwrites rows.
template <class V>
static inline V sum_each(V (&rows)[lanes_of<V>]) {
  constexpr int lanes = lanes_of<V>;
  const IntsOf<V> lane = lane_numbers<V>();
#pragma GCC unroll 4
  for (int s = 1; s < lanes; s *= 2) {
    const IntsOf<V> upper = (lane & s) == 0 ? lane : lane - s + lanes;
    const IntsOf<V> lower = (lane & s) == 0 ? lane + s : lane + lanes;
#pragma GCC unroll 16
    for (int i = 0; i < lanes; i += 2 * s)
      rows[i] = pick(rows[i], rows[i + s], upper) + pick(rows[i], rows[i + s], lower);
  }
  return rows[0];
}

// to[columns, rows] = from[rows, columns] transposed; `to` has ld_to floats a row.
static inline void transpose(int64_t rows, int64_t columns, const float* from, int64_t ld_from, float* to,
                             int64_t ld_to) {
  constexpr int lanes = lanes_of<BlockVec>;
  int64_t i = 0;
  for (; i + lanes <= rows; i += lanes) {
    int64_t j = 0;
    for (; j + lanes <= columns; j += lanes) {
      BlockVec square[lanes];
#pragma GCC unroll 16
      for (int l = 0; l < lanes; l++) square[l] = load<BlockVec>(from + (i + l) * ld_from + j);
      transpose_square(square);
#pragma GCC unroll 16
      for (int l = 0; l < lanes; l++) store(to + (j + l) * ld_to + i, square[l]);
    }
    for (; j < columns; j++)
      for (int l = 0; l < lanes; l++) to[j * ld_to + i + l] = from[(i + l) * ld_from + j];
  }
  for (; i < rows; i++)
    for (int64_t j = 0; j < columns; j++) to[j * ld_to + i] = from[i * ld_from + j];
}

MOLT_SIMD_END
