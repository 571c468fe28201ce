// Copies of blocks of a factor in the form that the register tile reads (tile.h), words of one or two elements along k:
//   panel:  [steps, width] words. The right factor always lies so; a left factor that is stored transposed, too, its
//           panels as wide as a tile is high.
//   rows:   rows of elements as stored, converted: for a left factor that is stored as the tile wants it, but in the
//           other type.
// Whatever lies beyond the matrix is zero, so that the tile need not ask.
#pragma once
#include "gemm.h"
#include "tile.h"

MOLT_SIMD_BEGIN

// Steps along `depth` elements of k. The last ones are zero if a product takes several at once.
template <class Step>
static inline int64_t steps_of(int64_t depth) {
  return round_up(blocks_of(depth, Step::kPerWord), Step::kStepsAtOnce);
}

// Calls body(pointer) with the type of a factor's elements.
template <class Body>
static inline auto with_elements(const Factor& f, Body&& body) {
  if (f.dtype == DType::bf16) return body(static_cast<const Bf16*>(f.data));
  return body(static_cast<const float*>(f.data));
}

// Temporary memory for elements of a product.
template <class Step>
static inline typename Step::Element* room_for(Scratch& scratch, int64_t count) {
  if constexpr (is_same<typename Step::Element, Bf16>) {
    return scratch.bf16s(count);
  } else {
    return scratch.floats(count);
  }
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

// One step of words for 2 · kLanes columns of a factor whose stored rows are k: a row of floats, or two rows of bf16
// with their columns interleaved. `count` columns exist; the others are zero. `next`: null behind the last row.
struct StepWords {
  Vec words[2];
};

template <class Step, class T>
MOLT_INLINE StepWords step_words(const T* row, const T* next, int64_t count) {
  if constexpr (Step::kPerWord == 1) {
    if (count >= 2 * kLanes) return {{enter<Step, Vec>(row), enter<Step, Vec>(row + kLanes)}};
    if (count >= kLanes) return {{enter<Step, Vec>(row), enter_part<Step, Vec>(row + kLanes, count - kLanes)}};
    return {{enter_part<Step, Vec>(row, count), Vec{}}};
  } else {
    using Both = typename HalvesOf<2 * kLanes>::Half;
    const auto both = [&](const T* from) {
      HalvesFor<Vec> half[2] = {};
      if (count >= 2 * kLanes) {
        half[0] = halves<Vec>(from);
        half[1] = halves<Vec>(from + kLanes);
      } else if (count >= kLanes) {
        half[0] = halves<Vec>(from);
        half[1] = halves_part<Vec>(from + kLanes, count - kLanes);
      } else {
        half[0] = halves_part<Vec>(from, count);
      }
      Both bits;
      __builtin_memcpy(&bits, half, sizeof bits);
      return bits;
    };
    const Both low = both(row), high = next == nullptr ? Both{} : both(next);
    Both from[2];
    for (int half = 0; half < 2; half++)
      for (int i = 0; i < 2 * kLanes; i++)
        from[half][i] = static_cast<uint16_t>(half * kLanes + i / 2 + (i % 2) * 2 * kLanes);
    StepWords result;
#pragma GCC unroll 2
    for (int half = 0; half < 2; half++) {
      const Both words = __builtin_shuffle(low, high, from[half]);
      __builtin_memcpy(&result.words[half], &words, sizeof words);
    }
    return result;
  }
}

// One vector of words at a step of a panel; half of it in the next panel if a panel is narrower than a vector.
template <class Element>
MOLT_INLINE void store_across(Element* to, Vec words, int64_t width, int64_t next_panel) {
  if (width >= kLanes) return store_words(to, words);
  HalfVec half[sizeof(Vec) / sizeof(HalfVec)];
  __builtin_memcpy(half, &words, sizeof words);
  store_words(to, half[0]);
  store_words(to + next_panel, half[sizeof(Vec) / sizeof(HalfVec) - 1]);
}

// One panel of a factor whose stored rows are k: from[depth, columns], rows `ld` apart, in `width` words a step.
template <class Step, class T>
static void pack_panel(const T* from, int64_t ld, int64_t depth, int64_t columns, int64_t width,
                       typename Step::Element* to) {
  constexpr int word = Step::kPerWord;
  for (int64_t k = 0; k < depth; k += word) {
    const T *row = from + k * ld, *next = word > 1 && k + 1 < depth ? row + ld : nullptr;
    for (int64_t j = 0; j < width; j += 2 * kLanes) {
      const int64_t count = larger(0, columns - j);
      const StepWords two = step_words<Step>(row + j, next == nullptr ? nullptr : next + j, count);
      for (int half = 0; half < 2; half++) {
        const int64_t column = j + half * kLanes, room = width - column;
        if (room >= kLanes) {
          store_words(to + (k / word * width + column) * word, two.words[half]);
        } else if (room > 0) {
          __builtin_memcpy(to + (k / word * width + column) * word, &two.words[half], room * sizeof(float));
        }
      }
    }
  }
}

// Elements from one panel to the next. A line more than it holds: panels of a power of two would compete for the same
// few places of the nearest cache while they are written side by side.
template <class Step>
static inline int64_t panel_size(int64_t width, int64_t steps) {
  return steps * width * Step::kPerWord + 64 / static_cast<int64_t>(sizeof(typename Step::Element));
}

// Panels of a factor whose stored rows are k, rows `ld` apart: steps [first, end) of `columns` columns, in panels of
// `width` words `next_panel` elements apart. Zero beyond the columns, up to a whole panel, and beyond the depth.
template <class Step, class T>
static void pack_panels(const T* from, int64_t ld, int64_t first, int64_t end, int64_t depth, int64_t columns,
                        int64_t width, int64_t next_panel, typename Step::Element* to) {
  constexpr int64_t ahead = 8;  // steps: rows are too far apart for the hardware to guess the next
  constexpr int word = Step::kPerWord;
  for (int64_t step = first; step < end; step++) {
    const int64_t k = step * word;
    const T *row = k < depth ? from + k * ld : nullptr, *next = word > 1 && k + 1 < depth ? row + ld : nullptr;
    for (int64_t j = 0; j < columns; j += 2 * kLanes) {
      for (int i = 0; i < word; i++) __builtin_prefetch(from + (k + ahead * word + i) * ld + j);
      StepWords two{};
      if (row != nullptr) two = step_words<Step>(row + j, next == nullptr ? nullptr : next + j, columns - j);
#pragma GCC unroll 2
      for (int half = 0; half < 2; half++) {
        const int64_t column = j + half * kLanes;
        typename Step::Element* cell = to + column / width * next_panel + (step * width + column % width) * word;
        if (column < columns) store_across(cell, two.words[half], width, next_panel);
      }
    }
  }
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

// The same of fewer than a vector of them holds: the first `count` elements.
template <class Step, class V, class T>
MOLT_INLINE V words_along_k_part(const T* from, int64_t count) {
  constexpr int lanes = lanes_of<V>;
  if constexpr (Step::kPerWord == 1) {
    return enter_part<Step, V>(from, count);
  } else {
    HalvesFor<V> both[2] = {};
    both[0] = count >= lanes ? halves<V>(from) : halves_part<V>(from, count);
    if (count > lanes) both[1] = halves_part<V>(from + lanes, count - lanes);
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

#if defined(__AMX_BF16__)
// Rows along k of a factor whose stored rows are k: to[rows, ld_to], zero beyond `depth`. Room for whole sixteens of rows.
template <class T>
static void pack_transposed_rows(const T* from, int64_t ld, int64_t rows, int64_t depth, Bf16* to, int64_t ld_to) {
  for (int64_t i = 0; i < rows; i += 2 * kLanes) {
    for (int64_t step = 0; step < ld_to / 2; step += kLanes) {
      Vec square[2][kLanes];
      for (int l = 0; l < kLanes; l++) {
        const int64_t k = 2 * (step + l);
        StepWords words{};
        if (k < depth) {
          const T* row = from + k * ld + i;
          words = step_words<Bf16Pairs>(row, k + 1 < depth ? row + ld : nullptr, rows - i);
        }
        square[0][l] = words.words[0];
        square[1][l] = words.words[1];
      }
      for (int half = 0; half < 2 && i + half * kLanes < rows; half++) {
        transpose_square(square[half]);
        for (int l = 0; l < kLanes; l++) store_words(to + (i + half * kLanes + l) * ld_to + 2 * step, square[half][l]);
      }
    }
  }
}
#endif

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
