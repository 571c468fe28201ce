// Copies of blocks of a factor in the form that the register tile reads (tile.h), words of one or two elements along k:
//   panel:  [steps, width] words. The right factor always lies so; a left factor that is stored transposed, too.
//   rows:   rows of elements as stored, converted: for a left factor that is stored as the tile wants it, but in the
//           other type.
// Whatever lies beyond the matrix is zero, so that the tile need not ask.
#pragma once
#include "tile.h"

MOLT_SIMD_BEGIN

template <class Step>
static inline int64_t steps_of(int64_t depth) {
  return blocks_of(depth, Step::kPerWord);
}

// Elements of a factor on their way into a product of floats.
template <class Step, class V, class T>
MOLT_INLINE V enter(const T* from) {
  const V v = load<V>(from);
  if constexpr (is_same<Step, RoundedFloats> && is_same<T, float>) return widen<V>(narrow(v));
  return v;
}

template <class Step, class V, class T>
MOLT_INLINE V enter_part(const T* from, int64_t count) {
  const V v = load_part<V>(from, count);
  if constexpr (is_same<Step, RoundedFloats> && is_same<T, float>) return widen<V>(narrow(v));
  return v;
}

// Bits of a vector of bf16; floats are rounded.
template <class V>
using HalvesFor = typename HalvesOf<lanes_of<V>>::Half;

template <class V>
MOLT_INLINE HalvesFor<V> halves(const Bf16* from) {
  HalvesFor<V> half;
  __builtin_memcpy(&half, from, sizeof half);
  return half;
}
template <class V>
MOLT_INLINE HalvesFor<V> halves(const float* from) {
  return narrow(load<V>(from));
}
template <class V, class T>
MOLT_INLINE HalvesFor<V> halves_part(const T* from, int64_t count) {
  return narrow(load_part<V>(from, count));
}

// Words of two bf16: `low` is the earlier k.
template <class V>
MOLT_INLINE V pairs(HalvesFor<V> low, HalvesFor<V> high) {
  using Bits = typename HalvesOf<lanes_of<V>>::Bits;
  const Bits bits = __builtin_convertvector(low, Bits) | __builtin_convertvector(high, Bits) << 16;
  V v;
  __builtin_memcpy(&v, &bits, sizeof v);
  return v;
}

// A panel of a factor whose stored rows are k: from[depth, columns], rows `ld` apart.
template <class Step, class T>
static void pack_panel(const T* from, int64_t ld, int64_t depth, int64_t columns, int64_t width,
                       typename Step::Element* to) {
  constexpr int word = Step::kPerWord;
  const auto pack_columns = [&](int64_t j, int64_t count) {
    const bool whole = count == kLanes;
    for (int64_t k = 0; k < depth; k += word) {
      const T* row = from + k * ld + j;
      Vec words;
      if constexpr (word == 1) {
        words = whole ? enter<Step, Vec>(row) : enter_part<Step, Vec>(row, count);
      } else {
        const HalvesFor<Vec> low = whole ? halves<Vec>(row) : halves_part<Vec>(row, count);
        HalvesFor<Vec> high{};
        if (k + 1 < depth) high = whole ? halves<Vec>(row + ld) : halves_part<Vec>(row + ld, count);
        words = pairs<Vec>(low, high);
      }
      typename Step::Element* cell = to + k * width + j * word;
      if (j + kLanes <= width) {
        store_words(cell, words);
      } else {
        __builtin_memcpy(cell, &words, (width - j) * sizeof(float));
      }
    }
  };
  for (int64_t j = 0; j < width; j += kLanes) pack_columns(j, larger(0, smaller(kLanes, columns - j)));
}

// The words of one stored row along k.
template <class Step, class V, class T>
MOLT_INLINE V words_along_k(const T* from) {
  if constexpr (Step::kPerWord == 1) {
    return enter<Step, V>(from);
  } else if constexpr (is_same<T, Bf16>) {
    return load_words<V>(from);
  } else {
    const HalvesFor<V> both[2] = {halves<V>(from), halves<V>(from + lanes_of<V>)};
    V v;
    __builtin_memcpy(&v, both, sizeof v);
    return v;
  }
}

template <class Step, class T>
static inline float word_along_k(const T* from, int64_t count) {
  if constexpr (Step::kPerWord == 1) {
    return enter_part<Step, FourVec>(from, 1)[0];
  } else {
    const auto two = halves_part<FourVec>(from, smaller(count, 2));
    float word;
    __builtin_memcpy(&word, &two, sizeof word);
    return word;
  }
}

// A panel of a factor whose stored rows are its columns: from[columns, depth], rows `ld` apart.
template <class Step, class T>
static void pack_transposed_panel(const T* from, int64_t ld, int64_t depth, int64_t columns, int64_t width,
                                  typename Step::Element* to) {
  constexpr int word = Step::kPerWord, lanes = lanes_of<BlockVec>;
  const int64_t whole = depth / (lanes * word) * lanes;
  int64_t j = 0;
  for (; j + lanes <= columns; j += lanes) {
    for (int64_t step = 0; step < whole; step += lanes) {
      BlockVec square[lanes];
#pragma GCC unroll 16
      for (int l = 0; l < lanes; l++) square[l] = words_along_k<Step, BlockVec>(from + (j + l) * ld + step * word);
      transpose_square(square);
#pragma GCC unroll 16
      for (int l = 0; l < lanes; l++) store_words(to + ((step + l) * width + j) * word, square[l]);
    }
  }
  const auto one_by_one = [&](int64_t first_column, int64_t end_column, int64_t first_step) {
    for (int64_t column = first_column; column < end_column; column++) {
      for (int64_t step = first_step; step < steps_of<Step>(depth); step++) {
        const float words = column >= columns ? 0
                                              : word_along_k<Step>(from + column * ld + step * word, depth - step * word);
        __builtin_memcpy(to + (step * width + column) * word, &words, sizeof words);
      }
    }
  };
  one_by_one(0, j, whole);
  one_by_one(j, width, 0);
}

// Rows of a factor that is stored along k, in the product's own type: [rows, ld_to], zero from `depth` to ld_to.
template <class Step, class T>
static void pack_rows(const T* from, int64_t ld, int64_t rows, int64_t depth, typename Step::Element* to,
                      int64_t ld_to) {
  for (int64_t i = 0; i < rows; i++) {
    typename Step::Element* row = to + i * ld_to;
    int64_t k = 0;
    for (; k + kLanes <= depth; k += kLanes) store(row + k, enter<Step, Vec>(from + i * ld + k));
    if (k < depth) store_part(row + k, enter_part<Step, Vec>(from + i * ld + k, depth - k), depth - k);
    if (depth < ld_to) __builtin_memset(row + depth, 0, (ld_to - depth) * sizeof(*row));
  }
}

MOLT_SIMD_END
