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
    with_elements(rows, [&](auto* from) { pack(from, rows.ld); });
  }
};

// Some rows of a left factor as the tile reads them.
template <class Step>
struct Strip {
  const typename Step::Element* data;
  int64_t ld;
  Order order;
};

// Elements that `strip_of_rows` needs for a copy.
template <class Step>
static inline int64_t strip_elements(int64_t depth) {
  return kStripRows * steps_of<Step>(depth) * Step::kPerWord;
}

// The first rows of a factor that has k along its stored rows: where they lie, or copied if they are of the wrong type.
template <class Step>
static Strip<Step> strip_of_rows(const Factor& weight, int64_t rows, int64_t depth, typename Step::Element* copy) {
  using Element = typename Step::Element;
  const int64_t ld = steps_of<Step>(depth) * Step::kPerWord;
  return with_elements(weight, [&](auto* from) -> Strip<Step> {
    // floats of a rounded product may have more digits than it takes
    constexpr bool ready = is_same<decltype(from), const Element*> && !is_same<Step, RoundedFloats>;
    if constexpr (ready) {
      if (ld == depth) return {from, weight.ld, Order::rows};
    }
    pack_rows<Step>(from, weight.ld, rows, depth, copy, ld);
    return {copy, ld, Order::rows};
  });
}

// Memory that will be read next, brought to the second cache a little with every tile: it comes from far away, and a
// tile takes longer than that.
struct Ahead {
  const char* at = nullptr;
  int64_t bytes = 0;

  MOLT_INLINE void fetch(int64_t some) {
    for (int64_t i = 0; i < smaller(some, bytes); i += 64) __builtin_prefetch(at + i, 0, 2);
    at += some;
    bytes -= some;
  }
  // One of `parts` equal parts.
  MOLT_INLINE Ahead part(int64_t index, int64_t parts) const {
    const int64_t each = blocks_of(bytes, parts);
    return {at + index * each, larger(0, smaller(each, bytes - index * each))};
  }
};

// The rows of a factor that has k along them.
static inline Ahead ahead(const Factor& rows, int64_t count) {
  return {static_cast<const char*>(rows.data), count * rows.ld * dtype_bytes(rows.dtype)};
}

// A left factor that has k down its stored rows, copied as strips of [steps, kStripRows] words: as it lies, the elements
// of one strip are pages apart and share few sets of the caches.
template <class Step>
struct ColumnStrips {
  typename Step::Element* data;
  int64_t depth, columns;

  static ColumnStrips in(Scratch& scratch, int64_t depth, int64_t columns) {
    const int64_t words = steps_of<Step>(depth) * round_up(columns, kStripRows);
    return {elements_of<Step>(scratch, words * Step::kPerWord), depth, columns};
  }

  typename Step::Element* words(int64_t step, int64_t column) const {
    const int64_t strip = column / kStripRows;
    return data + ((strip * steps_of<Step>(depth) + step) * kStripRows + column % kStripRows) * Step::kPerWord;
  }
  Strip<Step> strip(int64_t first_column) const {
    return {words(0, first_column), kStripRows * Step::kPerWord, Order::columns};
  }
  Ahead ahead(int64_t first_column) const {
    if (first_column >= columns) return {};
    return {reinterpret_cast<const char*>(words(0, first_column)), steps_of<Step>(depth) * kStripRows * 4};
  }

  // Copies rows [first, end) of k; `first` is even. `from` is the factor's first row.
  template <class T>
  void copy(const T* from, int64_t ld, int64_t first, int64_t end) const {
    for (int64_t k = first; k < end; k += Step::kPerWord) {
      for (int64_t j = 0; j < round_up(columns, kStripRows); j += kLanes) {
        const int64_t count = larger(0, smaller(kLanes, columns - j));
        const bool whole = count == kLanes;
        const T* row = from + k * ld + j;
        Vec word;
        if constexpr (Step::kPerWord == 1) {
          word = whole ? enter<Step, Vec>(row) : enter_part<Step, Vec>(row, count);
        } else {
          HalvesFor<Vec> high{};
          if (k + 1 < depth) high = whole ? halves<Vec>(row + ld) : halves_part<Vec>(row + ld, count);
          word = pairs<Vec>(whole ? halves<Vec>(row) : halves_part<Vec>(row, count), high);
        }
        store_words(words(k / Step::kPerWord, j), word);
      }
    }
  }
  void copy(const Factor& weight, int64_t first, int64_t end) const {
    with_elements(weight, [&](auto* from) { copy(from, weight.ld, first, end); });
  }
};

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
                        const typename Step::Element* B, float* C, int64_t ldc, bool accumulate, Ahead& next,
                        int64_t bytes_a_tile) {
  const int64_t next_row = order == Order::rows ? lda : Step::kPerWord;
  int64_t i = 0;
  const auto tiles = [&](auto height) {
    constexpr int Rows = decltype(height)::value;
    for (; i + Rows <= rows; i += Rows) {
      next.fetch(bytes_a_tile);
      strip_tile<Step, Rows, Vectors, order>(steps, A + i * next_row, lda, B, C + i * ldc, ldc, accumulate);
    }
  };
  tiles(Constant<kTileRows>{});
  if constexpr (kTileRows > 4) tiles(Constant<4>{});
  tiles(Constant<2>{});
  tiles(Constant<1>{});
}

// C = or += strip · panels, with C in the same panels: of each, kStripRows rows as wide as it is, of which `rows` are
// written. So a strip's results for one panel lie together; rows of all tokens would share few sets of the caches.
template <class Step>
static void multiply(const Strip<Step>& left, int64_t rows, const TokenPanels<Step>& right, float* C,
                     bool accumulate = false, Ahead next = {}) {
  const int64_t steps = right.steps(), near = blocks_of(steps, blocks_of(steps, kNearSteps));
  const int64_t tiles = blocks_of(steps, near) * blocks_of(right.padded(), 2 * kLanes) * larger(1, rows / kTileRows);
  const int64_t bytes_a_tile = round_up(blocks_of(next.bytes, tiles), 64);
  for (int64_t step = 0; step < steps; step += near) {
    const int64_t count = smaller(near, steps - step);
    const bool add = accumulate || step > 0;
    const auto* A = left.data + step * (left.order == Order::rows ? Step::kPerWord : left.ld);
    for (int64_t first = 0; first < right.padded(); first += 2 * kLanes) {
      const bool two = right.width(first) == 2 * kLanes;
      const auto panel = left.order == Order::rows
                             ? (two ? strip_panel<Step, 2, Order::rows> : strip_panel<Step, 1, Order::rows>)
                             : (two ? strip_panel<Step, 2, Order::columns> : strip_panel<Step, 1, Order::columns>);
      panel(rows, count, A, left.ld, right.panel(first, step), C + first * kStripRows, right.width(first), add, next,
            bytes_a_tile);
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

// Calls body(first, width, count) for the panels of a block of tokens: `count` of the `width` columns are tokens.
template <class Body>
static inline void for_panels(int64_t tokens, Body&& body) {
  for (int64_t first = 0; first < tokens; first += 2 * kLanes) {
    const int64_t count = smaller(2 * kLanes, tokens - first);
    body(first, round_up(count, kLanes), count);
  }
}

// Turns the results of a strip into rows of tokens: write(token, features) is given as many as the strip has rows.
template <class Write>
static void each_token(int64_t rows, int64_t tokens, const float* results, Write&& write) {
  alignas(64) float turned[2 * kLanes * kStripRows];
  for_panels(tokens, [&](int64_t first, int64_t width, int64_t count) {
    transpose(rows, count, results + first * kStripRows, width, turned, kStripRows);
    for (int64_t i = 0; i < count; i++) write(first + i, turned + i * kStripRows);
  });
}

// Calls body(Step) with the kind of product: of bf16 if any of the tensors that enter it is stored so.
template <class Body>
static inline void with_step_of(const Tensor* tensors, int count, Body&& body) {
  bool rounded = false;
  for (int i = 0; i < count; i++) rounded = rounded || tensors[i].is_bf16();
  if (!rounded) return body(Floats{});
#if defined(__AVX512BF16__)
  body(Bf16Pairs{});
#else
  body(RoundedFloats{});
#endif
}

MOLT_SIMD_END
