// Matrix products of whole matrices. The right factor is copied into panels of two vectors of columns (gemm_pack.h),
// the left one is read where it lies unless its type or order forbids; then blocks of rows × groups of panels are spread
// over the pool. A block of k runs through all rows of a task while a panel's part is in the nearest caches.
//
// levels: avx512bf16
#include "gemm.h"
#include "gemm_few_rows.h"
#include "gemm_pack.h"
#include "parallel.h"

MOLT_SIMD_BEGIN

// Columns and steps of the right factor that are copied at a time: at most 2 MB, which the last cache holds.
constexpr int64_t kColumns = 512;
constexpr int64_t kSteps = 1024;
// Steps of a panel that stay near while the rows of a task pass by. A range is cut into equal blocks of at most so many:
// a short last one would cost as many passes over the sums as a long one.
constexpr int64_t kStepsNear = 384;
constexpr int64_t kRowsPerTask = 64;
// Rows of the left factor that are copied at a time, if they are.
constexpr int64_t kRows = 1024;

// The left factor as the tile reads it.
template <class Step>
struct Left {
  const typename Step::Element* data;
  int64_t ld;
  Order order;
};

// A panel of the right factor, and which columns of C it makes.
template <class Step>
struct Panel {
  const typename Step::Element* data;
  int64_t ld;  // elements between two steps
  int64_t first, columns, width;
};

// Where the sums of a block of C come from and go to; columns count from the first of a panel.
struct Ends {
  const float* start;  // sums of earlier k, or null
  int64_t ld_start;
  const float* add;  // or null
  int64_t ld_add;
  bool accumulate;
  Result c;

  MOLT_INLINE Ends below(int64_t rows) const {
    return {start == nullptr ? nullptr : start + rows * ld_start, ld_start,
            add == nullptr ? nullptr : add + rows * ld_add,       ld_add,
            accumulate,                                           c.from(rows * c.ld)};
  }
};

template <class V, int Rows, int Vectors, class T>
MOLT_INLINE void finish(V (&sums)[Rows][Vectors], const Ends& ends, T* C, int64_t columns) {
  constexpr int lanes = lanes_of<V>;
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) {
      const int64_t count = columns - j * lanes;
      T* c = C + i * ends.c.ld + j * lanes;
      const float* add = ends.add + i * ends.ld_add + j * lanes;
      V v = sums[i][j];
      if (count >= lanes) {
        if (ends.add != nullptr) v += load<V>(add);
        if (ends.accumulate) v += load<V>(c);
        store(c, v);
      } else if (count > 0) {
        if (ends.add != nullptr) v += load_part<V>(add, count);
        if (ends.accumulate) v += load_part<V>(c, count);
        store_part(c, v, count);
      }
    }
  }
}

template <class Step, class V, int Rows, int Vectors, Order order>
static inline void block_tile(int64_t steps, const typename Step::Element* A, int64_t lda,
                              const typename Step::Element* B, int64_t ldb, const Ends& ends, int64_t columns) {
  constexpr int lanes = lanes_of<V>;
  V sums[Rows][Vectors] = {};
  if (ends.start != nullptr) {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) {
        const float* start = ends.start + i * ends.ld_start + j * lanes;
        const int64_t count = columns - j * lanes;
        if (count >= lanes) {
          sums[i][j] = load<V>(start);
        } else if (count > 0) {
          sums[i][j] = load_part<V>(start, count);
        }
      }
    }
  }
  add_products<Step, order>(sums, steps, A, lda, B, ldb);
  if (ends.c.dtype == DType::bf16) {
    finish(sums, ends, static_cast<Bf16*>(ends.c.data), columns);
  } else {
    finish(sums, ends, static_cast<float*>(ends.c.data), columns);
  }
}

template <class Step, class V, int Vectors, Order order>
static void block_panel(int64_t rows, int64_t steps, const typename Step::Element* A, int64_t lda,
                        const typename Step::Element* B, int64_t ldb, const Ends& ends, int64_t columns) {
  const int64_t next_row = order == Order::rows ? lda : Step::kPerWord;
  int64_t i = 0;
  const auto tiles = [&](auto height) {
    constexpr int Rows = decltype(height)::value;
    for (; i + Rows <= rows; i += Rows)
      block_tile<Step, V, Rows, Vectors, order>(steps, A + i * next_row, lda, B, ldb, ends.below(i), columns);
  };
  tiles(Constant<kTileRows>{});
  if constexpr (kTileRows > 4) tiles(Constant<4>{});
  tiles(Constant<2>{});
  tiles(Constant<1>{});
}

template <class Step, Order order>
static void block_of_width(int64_t rows, int64_t steps, const typename Step::Element* A, int64_t lda,
                           const typename Step::Element* B, const Panel<Step>& panel, const Ends& ends) {
  if (panel.width == 2 * kLanes) {
    block_panel<Step, Vec, 2, order>(rows, steps, A, lda, B, panel.ld, ends, panel.columns);
  } else if (panel.width == kLanes) {
    block_panel<Step, Vec, 1, order>(rows, steps, A, lda, B, panel.ld, ends, panel.columns);
  } else {
    block_panel<Step, HalfVec, 1, order>(rows, steps, A, lda, B, panel.ld, ends, panel.columns);
  }
}

// One panel of columns of C for the rows of one task.
template <class Step>
static void multiply(const Left<Step>& left, int64_t rows, int64_t depth, const Panel<Step>& panel, const Ends& ends) {
  const int64_t steps = steps_of<Step>(depth), near = blocks_of(steps, blocks_of(steps, kStepsNear));
  alignas(64) float partial[kRowsPerTask * 2 * kLanes];
  for (int64_t step = 0; step < steps; step += near) {
    const bool first = step == 0, last = step + near >= steps;
    Ends part = ends;
    if (!last) part = {nullptr, 0, nullptr, 0, false, result(partial, 2 * kLanes)};
    part.start = first ? ends.start : partial;
    part.ld_start = first ? ends.ld_start : 2 * kLanes;
    const auto block = left.order == Order::rows ? block_of_width<Step, Order::rows> : block_of_width<Step, Order::columns>;
    const int64_t at = left.order == Order::rows ? step * Step::kPerWord : step * left.ld;
    block(rows, smaller(near, steps - step), left.data + at, left.ld, panel.data + step * panel.ld, panel, part);
  }
}

template <class Step>
static void copy_panel(const Factor& b, int64_t depth, int64_t columns, int64_t width, typename Step::Element* to) {
  const auto copy = [&](auto* from) {
    if (b.transposed) {
      pack_transposed_panel<Step>(from, b.ld, depth, columns, width, to);
    } else {
      pack_panel<Step>(from, b.ld, depth, columns, width, to);
    }
  };
  if (b.dtype == DType::bf16) return copy(static_cast<const Bf16*>(b.data));
  copy(static_cast<const float*>(b.data));
}

// The rows of one task of the left factor, copied. `ld`: of rows along k, or the width of a panel.
template <class Step>
static void copy_left(const Factor& a, int64_t rows, int64_t depth, typename Step::Element* to, int64_t ld) {
  const auto copy = [&](auto* from) {
    if (a.transposed) {
      pack_panel<Step>(from, a.ld, depth, rows, ld, to);
    } else {
      pack_rows<Step>(from, a.ld, rows, depth, to, ld);
    }
  };
  if (a.dtype == DType::bf16) return copy(static_cast<const Bf16*>(a.data));
  copy(static_cast<const float*>(a.data));
}

// Elements of a factor lie in memory as the tile takes them.
template <class Step>
static bool is_element(DType dtype) {
  if constexpr (is_same<Step, Floats>) return dtype == DType::f32;
  if constexpr (Step::kPerWord == 2) return dtype == DType::bf16;
  return false;  // floats may have to be rounded, bf16 to be widened
}

// One range of k: M × columns of C, columns of which begin at b's and c's first.
template <class Step>
static void multiply_range(Pool& pool, int64_t M, int64_t columns, int64_t depth, const Factor& a, const Factor& b,
                           const Ends& ends) {
  using Element = typename Step::Element;
  constexpr int word = Step::kPerWord, most_panels = kColumns / (2 * kLanes) + 2;
  const int64_t steps = steps_of<Step>(depth);
  // The left factor: as it lies, or copied a task's rows at a time.
  const bool copy_a = !is_element<Step>(a.dtype) || (word > 1 && (a.transposed || depth % word != 0));
  const int64_t ld_rows = steps * word;
  // Rows of the right factor that lie as the tile wants them are used in place while few rows of the left read them.
  const bool copy_all = word > 1 || !is_element<Step>(b.dtype) || b.transposed || (steps * columns > 32768 && M > kRowsPerTask);

  Scratch scratch;
  const auto elements = [&](int64_t count) {
    if constexpr (word == 1) return scratch.floats(count);
    else return scratch.bf16s(count);
  };
  Element* copies = elements(steps * word * round_up(columns, 2 * kLanes));
  Panel<Step> panels[most_panels];
  int64_t count = 0;
  for (int64_t j = 0; j < columns;) {
    const int64_t width = panel_width(columns - j), present = smaller(width, columns - j);
    if (copy_all || present < width) {
      panels[count++] = {copies + j * steps * word, width * word, j, present, width};
    } else {
      panels[count++] = {static_cast<const Element*>(b.data) + j, b.ld, j, present, width};
    }
    j += width;
  }

  Element* rows_copied = copy_a ? elements(round_up(smaller(M, kRows), kRowsPerTask) * steps * word) : nullptr;
  for (int64_t m0 = 0; m0 < M; m0 += kRows) {
    const int64_t some = smaller(kRows, M - m0), row_blocks = blocks_of(some, kRowsPerTask);
    const auto block_a = [&](int64_t block) {
      const int64_t row = m0 + block * kRowsPerTask;
      return a.from(a.transposed ? row : row * a.ld);
    };
    const int64_t copied_panels = m0 == 0 ? count : 0;
    for_tasks(pool, copied_panels + (copy_a ? row_blocks : 0), static_cast<double>(steps) * 2 * kLanes / 4,
              [&](int64_t task) {
                if (task < copied_panels) {
                  const Panel<Step>& panel = panels[task];
                  Element* to = copies + panel.first * steps * word;
                  if (panel.data == to)
                    copy_panel<Step>(b.from(b.transposed ? panel.first * b.ld : panel.first), depth, panel.columns,
                                     panel.width, to);
                } else {
                  const int64_t block = task - copied_panels, rows = smaller(kRowsPerTask, some - block * kRowsPerTask);
                  copy_left<Step>(block_a(block), rows, depth, rows_copied + block * kRowsPerTask * steps * word,
                                  a.transposed ? kRowsPerTask : ld_rows);
                }
              });

    const double panel_cost = 2.0 * static_cast<double>(smaller(some, kRowsPerTask) * steps * 2 * kLanes) / kFlopPerNanosecond;
    const int64_t group = larger(1, smaller(count, static_cast<int64_t>(kWorthAThread / panel_cost)));
    const int64_t groups = blocks_of(count, group);
    for_tasks(pool, row_blocks * groups, panel_cost * static_cast<double>(group), [&](int64_t task) {
      const int64_t block = task / groups, row = m0 + block * kRowsPerTask;
      const int64_t rows = smaller(kRowsPerTask, M - row), first = task % groups * group;
      Left<Step> left;
      if (copy_a) {
        left = {rows_copied + block * kRowsPerTask * steps * word, a.transposed ? kRowsPerTask * word : ld_rows,
                a.transposed ? Order::columns : Order::rows};
      } else {
        left = {static_cast<const Element*>(block_a(block).data), a.ld, a.transposed ? Order::columns : Order::rows};
      }
      for (int64_t p = first; p < smaller(count, first + group); p++) {
        Ends there = ends.below(row);
        if (there.start != nullptr) there.start += panels[p].first;
        if (there.add != nullptr) there.add += panels[p].first;
        there.c = there.c.from(panels[p].first);
        multiply<Step>(left, rows, depth, panels[p], there);
      }
    });
  }
}

template <class Step>
static void multiply_all(Pool& pool, const Product& p) {
  const int64_t most_depth = kSteps * Step::kPerWord;
  const int64_t ranges = blocks_of(p.K, most_depth);
  const int64_t depth = round_up(blocks_of(p.K, ranges), Step::kPerWord);
  // Sums between two ranges of k: in C itself if they are floats and C is not added to.
  const bool between = ranges > 1 && (p.c.dtype == DType::bf16 || p.accumulate || p.add != nullptr);
  Scratch scratch;
  const int64_t ld_sums = round_up(smaller(kColumns, p.N), kLanes);
  float* sums = between ? scratch.floats(p.M * ld_sums) : nullptr;
  for (int64_t n0 = 0; n0 < p.N; n0 += kColumns) {
    const int64_t columns = smaller(kColumns, p.N - n0);
    for (int64_t k0 = 0; k0 < p.K; k0 += depth) {
      const bool first = k0 == 0, last = k0 + depth >= p.K;
      const Result c = p.c.from(n0);
      Ends ends{nullptr, 0, nullptr, 0, false, c};
      if (last) {
        ends.add = p.add == nullptr ? nullptr : p.add + n0;
        ends.ld_add = p.ld_add;
        ends.accumulate = p.accumulate;
      } else if (between) {
        ends.c = result(sums, ld_sums);
      }
      if (!first) {
        ends.start = between ? sums : static_cast<const float*>(c.data);
        ends.ld_start = between ? ld_sums : c.ld;
      }
      multiply_range<Step>(pool, p.M, columns, smaller(depth, p.K - k0), p.a.from(p.a.transposed ? k0 * p.a.ld : k0),
                           p.b.from(p.b.transposed ? n0 * p.b.ld + k0 : k0 * p.b.ld + n0), ends);
    }
  }
}

// Without k there is nothing to sum.
static void no_products(const Product& p) {
  for (int64_t i = 0; i < p.M; i++) {
    for (int64_t j = 0; j < p.N; j++) {
      const Result c = p.c.from(i * p.c.ld + j);
      const float added = p.add == nullptr ? 0 : p.add[i * p.ld_add + j];
      if (c.dtype == DType::bf16) {
        auto* to = static_cast<Bf16*>(c.data);
        store_part(to, splat<FourVec>(added) + (p.accumulate ? load_part<FourVec>(to, 1) : FourVec{}), 1);
      } else {
        auto* to = static_cast<float*>(c.data);
        *to = added + (p.accumulate ? *to : 0);
      }
    }
  }
}

void gemm(Pool& pool, const Product& p) {
  if (p.M <= 0 || p.N <= 0) return;
  if (p.K <= 0) return no_products(p);
  if (p.M <= kFewRows && !p.a.transposed && p.b.transposed) return few_rows(pool, p);
  if (p.a.dtype == DType::f32 && p.b.dtype == DType::f32) return multiply_all<Floats>(pool, p);
#if defined(__AVX512BF16__)
  multiply_all<Bf16Pairs>(pool, p);
#else
  multiply_all<RoundedFloats>(pool, p);
#endif
}

MOLT_SIMD_END
