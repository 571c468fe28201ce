// A block of a matrix product: the rows of one task times one panel of columns, on one thread. Tiles of registers
// (tile.h) run down the panel; their sums start from those of an earlier range of k, and end in C with everything that is
// added to it. gemm_amx.h does the same with the tiles of AMX.
#pragma once
#include "gemm.h"
#include "gemm_pack.h"

MOLT_SIMD_BEGIN

constexpr int64_t kRowsPerTask = 64;
// Steps of a panel that stay near while the rows of a task pass by. A range is cut into equal blocks of at most so many:
// a short last one would cost as many passes over the sums as a long one.
constexpr int64_t kStepsNear = 384;

// The left factor as the tile reads it: rows along k, or steps of k with rows beside each other.
template <class Step>
struct Left {
  const typename Step::Element* data;
  Order order;
  int64_t ld;    // elements from row to row, or from step to step
  int64_t unit;  // elements from one kTileRows rows to the next

  MOLT_INLINE const typename Step::Element* row(int64_t i) const {
    const int64_t next = order == Order::rows ? ld : Step::kPerWord;
    return data + i / kTileRows * unit + i % kTileRows * next;
  }
  MOLT_INLINE Left after(int64_t steps) const {
    return {data + steps * (order == Order::rows ? Step::kPerWord : ld), order, ld, unit};
  }
};

// A panel of the right factor, and which columns of C it makes.
template <class Step>
struct Panel {
  const typename Step::Element* data;
  int64_t ld;  // elements between two steps
  int64_t first, columns, width;
};

// Where the sums of a block of C come from and go to.
struct Ends {
  const float* start;  // sums of earlier k, or null
  int64_t ld_start;
  const float* add;  // or null
  int64_t ld_add;
  bool accumulate;
  Result c;

  MOLT_INLINE Ends at(int64_t row, int64_t column) const {
    return {start == nullptr ? nullptr : start + row * ld_start + column, ld_start,
            add == nullptr ? nullptr : add + row * ld_add + column,       ld_add,
            accumulate,                                                   c.from(row * c.ld + column)};
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
      V v = sums[i][j];
      if (count >= lanes) {
        if (ends.add != nullptr) v += load<V>(ends.add + i * ends.ld_add + j * lanes);
        if (ends.accumulate) v += load<V>(c);
        store(c, v);
      } else if (count > 0) {
        if (ends.add != nullptr) v += load_part<V>(ends.add + i * ends.ld_add + j * lanes, count);
        if (ends.accumulate) v += load_part<V>(c, count);
        store_part(c, v, count);
      }
    }
  }
}

template <class V, int Rows, int Vectors>
MOLT_INLINE void finish(V (&sums)[Rows][Vectors], const Ends& ends, int64_t columns) {
  if (ends.c.dtype == DType::bf16) {
    finish(sums, ends, static_cast<Bf16*>(ends.c.data), columns);
  } else {
    finish(sums, ends, static_cast<float*>(ends.c.data), columns);
  }
}

template <class V, int Rows, int Vectors>
MOLT_INLINE void start_from(V (&sums)[Rows][Vectors], const Ends& ends, int64_t columns) {
  constexpr int lanes = lanes_of<V>;
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

template <class Step, class V, int Rows, int Vectors, Order order>
static inline void block_tile(int64_t steps, const typename Step::Element* A, int64_t lda,
                              const typename Step::Element* B, int64_t ldb, const Ends& ends, int64_t columns) {
  V sums[Rows][Vectors] = {};
  if (ends.start != nullptr) start_from(sums, ends, columns);
  add_products<Step, order>(sums, steps, A, lda, B, ldb);
  finish(sums, ends, columns);
}

template <class Step, class V, int Vectors, Order order>
static void block_of_vectors(int64_t rows, int64_t steps, const Left<Step>& left, const Panel<Step>& panel,
                             const Ends& ends) {
  int64_t i = 0;
  const auto tiles = [&](auto height) {
    constexpr int Rows = decltype(height)::value;
    for (; i + Rows <= rows; i += Rows)
      block_tile<Step, V, Rows, Vectors, order>(steps, left.row(i), left.ld, panel.data, panel.ld, ends.at(i, 0),
                                                panel.columns);
  };
  tiles(Constant<kTileRows>{});
  if constexpr (kTileRows > 4) tiles(Constant<4>{});
  tiles(Constant<2>{});
  tiles(Constant<1>{});
}

template <class Step, Order order>
static void block(int64_t rows, int64_t steps, const Left<Step>& left, const Panel<Step>& panel, const Ends& ends) {
  if (panel.width == 2 * kLanes) {
    block_of_vectors<Step, Vec, 2, order>(rows, steps, left, panel, ends);
  } else if (panel.width == kLanes) {
    block_of_vectors<Step, Vec, 1, order>(rows, steps, left, panel, ends);
  } else {
    block_of_vectors<Step, HalfVec, 1, order>(rows, steps, left, panel, ends);
  }
}

template <class Step>
static void block_of_steps(int64_t rows, int64_t steps, const Left<Step>& left, const Panel<Step>& panel,
                           const Ends& ends) {
  if (left.order == Order::rows) return block<Step, Order::rows>(rows, steps, left, panel, ends);
  block<Step, Order::columns>(rows, steps, left, panel, ends);
}

#if defined(__AMX_BF16__)
static void block_of_steps(int64_t rows, int64_t steps, const Left<Bf16Tiles>& left, const Panel<Bf16Tiles>& panel,
                           const Ends& ends);  // gemm_amx.h
#endif

// One panel of columns of C for the rows of one task; `ends` begins at the first of both.
template <class Step>
static void multiply(int64_t rows, int64_t steps, const Left<Step>& left, const Panel<Step>& panel, const Ends& ends) {
  const int64_t near = round_up(blocks_of(steps, blocks_of(steps, kStepsNear)), Step::kStepsAtOnce);
  alignas(64) float partial[kRowsPerTask * 2 * kLanes];
  for (int64_t step = 0; step < steps; step += near) {
    Ends part = ends;
    if (step + near < steps) part = {nullptr, 0, nullptr, 0, false, result(partial, 2 * kLanes)};
    part.start = step == 0 ? ends.start : partial;
    part.ld_start = step == 0 ? ends.ld_start : 2 * kLanes;
    Panel<Step> from = panel;
    from.data += step * panel.ld;
    block_of_steps(rows, smaller(near, steps - step), left.after(step), from, part);
  }
}

MOLT_SIMD_END
