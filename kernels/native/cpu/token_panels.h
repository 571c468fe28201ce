// Products of weights with a block of tokens, for kernels that take the block through several products while it stays in
// a core's cache. Everything is transposed, [features, tokens]: then a weight is the left factor and is read where it
// lies, row after row, and what is copied into panels (gemm_pack.h) is the block's own activations, once for all weights
// that read them. One thread, no pool: the block is a task of its kernel. Not for a few tokens: a vector holds kLanes.
#pragma once
#include "gemm.h"
#include "gemm_pack.h"
#include "parallel.h"

MOLT_SIMD_BEGIN

// Rows of a weight that are multiplied at a time: their results stay in the nearest caches until something is done with
// them.
constexpr int64_t kStripRows = 64;
// Words of k for which a panel and a strip stay near. A longer k is cut into equal parts of at most so many.
constexpr int64_t kNearSteps = 384;

template <class Step>
static inline typename Step::Element* elements_of(Scratch& scratch, int64_t count) {
  if constexpr (is_same<typename Step::Element, Bf16>) return scratch.bf16s(count);
  else return scratch.floats(count);
}

// The right factor [depth, tokens]: panels of two vectors of tokens, behind them one of one vector if tokens are left.
// What pads the last one is zero.
template <class Step>
struct TokenPanels {
  typename Step::Element* data = nullptr;
  int64_t depth = 0, tokens = 0;

  static TokenPanels in(Scratch& scratch, int64_t depth, int64_t tokens) {
    TokenPanels panels{nullptr, depth, tokens};
    panels.data = elements_of<Step>(scratch, panels.steps() * Step::kPerWord * panels.padded());
    return panels;
  }

  int64_t steps() const { return steps_of<Step>(depth); }
  int64_t padded() const { return round_up(tokens, kLanes); }
  int64_t width(int64_t first) const { return smaller(2 * kLanes, padded() - first); }
  // Panel whose first token is `first`, from a step on.
  typename Step::Element* panel(int64_t first, int64_t step) const {
    return data + (first * steps() + step * width(first)) * Step::kPerWord;
  }
  // The words of one step for the vector of tokens that begins at `token`.
  typename Step::Element* words(int64_t step, int64_t token) const {
    const int64_t first = token / (2 * kLanes) * (2 * kLanes);
    return panel(first, step) + (token - first) * Step::kPerWord;
  }

  // Fills the panels from rows of tokens, [tokens, depth] with `ld` elements from row to row.
  template <class T>
  void pack(const T* rows, int64_t ld) const {
    for (int64_t first = 0; first < padded(); first += 2 * kLanes)
      pack_transposed_panel<Step>(rows + first * ld, ld, depth, smaller(2 * kLanes, tokens - first), width(first),
                                  panel(first, 0));
  }
  void pack(const Factor& rows) const {
    if (rows.dtype == DType::bf16) return pack(static_cast<const Bf16*>(rows.data), rows.ld);
    pack(static_cast<const float*>(rows.data), rows.ld);
  }
};

// Some rows of a left factor as the tile reads them: where they lie, or copied if their type or their order forbids.
template <class Step>
struct Strip {
  const typename Step::Element* data;
  int64_t ld;
  Order order;
};

// Whether the elements of a factor are those of the product.
template <class Step>
static inline bool lies_ready(DType dtype) {
  if constexpr (is_same<Step, Floats>) return dtype == DType::f32;
  return Step::kPerWord == 2 && dtype == DType::bf16;  // floats may have to be rounded, bf16 to be widened
}

// Elements that `strip` needs for a copy.
template <class Step>
static inline int64_t strip_elements(int64_t depth) {
  return kStripRows * steps_of<Step>(depth) * Step::kPerWord;
}

// Rows [0, rows) of a factor over the first `depth` of k. A transposed factor has k down its stored rows.
template <class Step>
static Strip<Step> strip(const Factor& weight, int64_t rows, int64_t depth, typename Step::Element* copy) {
  constexpr int word = Step::kPerWord;
  const auto with_data = [&](auto&& use) {
    if (weight.dtype == DType::bf16) return use(static_cast<const Bf16*>(weight.data));
    use(static_cast<const float*>(weight.data));
  };
  const bool ready = lies_ready<Step>(weight.dtype);
  if (weight.transposed) {
    if (ready && word == 1) return {static_cast<const typename Step::Element*>(weight.data), weight.ld, Order::columns};
    with_data([&](auto* from) { pack_panel<Step>(from, weight.ld, depth, rows, kStripRows, copy); });
    return {copy, kStripRows * word, Order::columns};
  }
  if (ready && depth % word == 0)
    return {static_cast<const typename Step::Element*>(weight.data), weight.ld, Order::rows};
  const int64_t ld = steps_of<Step>(depth) * word;
  with_data([&](auto* from) { pack_rows<Step>(from, weight.ld, rows, depth, copy, ld); });
  return {copy, ld, Order::rows};
}

template <class Step, int Rows, int Vectors, Order order>
MOLT_INLINE void strip_tile(int64_t steps, const typename Step::Element* A, int64_t lda,
                            const typename Step::Element* B, float* C, int64_t ldc, bool accumulate) {
  Vec sums[Rows][Vectors] = {};
  if (accumulate) {
#pragma GCC unroll 16
    for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 4
      for (int j = 0; j < Vectors; j++) sums[i][j] = load<Vec>(C + i * ldc + j * kLanes);
    }
  }
  add_products<Step, order>(sums, steps, A, lda, B, Vectors * kLanes * Step::kPerWord);
#pragma GCC unroll 16
  for (int i = 0; i < Rows; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < Vectors; j++) store(C + i * ldc + j * kLanes, sums[i][j]);
  }
}

template <class Step, int Vectors, Order order>
static void strip_panel(int64_t rows, int64_t steps, const typename Step::Element* A, int64_t lda,
                        const typename Step::Element* B, float* C, int64_t ldc, bool accumulate) {
  const int64_t next_row = order == Order::rows ? lda : Step::kPerWord;
  int64_t i = 0;
  const auto tiles = [&](auto height) {
    constexpr int Rows = decltype(height)::value;
    for (; i + Rows <= rows; i += Rows)
      strip_tile<Step, Rows, Vectors, order>(steps, A + i * next_row, lda, B, C + i * ldc, ldc, accumulate);
  };
  tiles(Constant<kTileRows>{});
  if constexpr (kTileRows > 4) tiles(Constant<4>{});
  tiles(Constant<2>{});
  tiles(Constant<1>{});
}

// C[rows, padded tokens] = or += strip · panels.
template <class Step>
static void multiply(const Strip<Step>& left, int64_t rows, const TokenPanels<Step>& right, float* C, int64_t ldc,
                     bool accumulate = false) {
  const int64_t steps = right.steps(), near = blocks_of(steps, blocks_of(steps, kNearSteps));
  for (int64_t step = 0; step < steps; step += near) {
    const int64_t count = smaller(near, steps - step);
    const bool add = accumulate || step > 0;
    const auto* A = left.data + step * (left.order == Order::rows ? Step::kPerWord : left.ld);
    for (int64_t first = 0; first < right.padded(); first += 2 * kLanes) {
      const bool two = right.width(first) == 2 * kLanes;
      const auto panel = left.order == Order::rows
                             ? (two ? strip_panel<Step, 2, Order::rows> : strip_panel<Step, 1, Order::rows>)
                             : (two ? strip_panel<Step, 2, Order::columns> : strip_panel<Step, 1, Order::columns>);
      panel(rows, count, A, left.ld, right.panel(first, step), C + first, ldc, add);
    }
  }
}

// Writes one vector of tokens of features `row` and, for words of two, `row + 1` into panels as words.
template <class Step>
MOLT_INLINE void store_features(const TokenPanels<Step>& panels, int64_t row, int64_t token, Vec first, Vec second) {
  auto* to = panels.words(row / Step::kPerWord, token);
  if constexpr (is_same<Step, Floats>) {
    store(to, first);
  } else if constexpr (Step::kPerWord == 1) {
    store(to, widen<Vec>(narrow(first)));
  } else {
    store_words(to, pairs<Vec>(narrow(first), narrow(second)));
  }
}

MOLT_SIMD_END
