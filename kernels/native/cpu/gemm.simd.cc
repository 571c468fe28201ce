// Matrix products of whole matrices. The right factor is copied into panels of two vectors of columns (gemm_pack.h); the
// left one is read where it lies unless its type or its order forbids. Blocks of rows × groups of panels are spread over
// the pool (gemm_block.h). Copies are made anew in every product: a weight costs 2 % of the product with 512 tokens.
//
// levels: avx512bf16 amx
#include "gemm.h"
#include "gemm_amx.h"
#include "gemm_block.h"
#include "gemm_few_rows.h"
#include "gemm_pack.h"
#include "parallel.h"

MOLT_SIMD_BEGIN

// Columns and steps of the right factor that are copied at a time: at most 3 MB, which the last cache holds; if few rows
// of the left factor use it, half a megabyte, which the second holds.
constexpr int64_t kColumns = 768;
constexpr int64_t kSteps = 1024;
constexpr int64_t kWordsForFewRows = 131072;
// Steps that one task copies of a right factor whose rows are k.
constexpr int64_t kStepsPerCopy = 64;
// With fewer blocks of rows than this, several tasks share the copy of a block's left factor, which is made first.
constexpr int64_t kRowBlocksAlone = 8;

// A left factor that is stored transposed is copied into panels of so many rows.
constexpr int64_t kLeftWidth = 2 * kTileRows == kLanes ? kTileRows : kRowsPerTask;

// The part of a factor that begins at an element of it.
static inline Factor part(const Factor& f, int64_t row, int64_t column) {
  return f.from(f.transposed ? column * f.ld + row : row * f.ld + column);
}

// Whether elements lie in memory as the tile takes them.
template <class Step>
static bool is_element(DType dtype) {
  if constexpr (is_same<Step, Floats>) return dtype == DType::f32;
  if constexpr (Step::kPerWord == 2) return dtype == DType::bf16;
  return false;  // floats may have to be rounded, bf16 to be widened
}

// The left factor in one range of k, a block of rows at a time.
template <class Step>
struct LeftFactor {
  using Element = typename Step::Element;
  static constexpr int word = Step::kPerWord;
  static constexpr bool rows_only = Step::kStepsAtOnce > 1;

  Factor a;
  int64_t M, depth, steps;

  int64_t rows(int64_t block) const { return smaller(kRowsPerTask, M - block * kRowsPerTask); }

  bool needs_copy(int64_t block) const {
    if (!is_element<Step>(a.dtype) || depth % (word * Step::kStepsAtOnce) != 0) return true;
    if (rows_only && rows(block) % 16 != 0) return true;
    return a.transposed && word > 1;
  }
  bool needs_copies() const { return needs_copy(0) || needs_copy(blocks_of(M, kRowsPerTask) - 1); }

  static int64_t copy_size(int64_t steps) { return kRowsPerTask / kLeftWidth * panel_size<Step>(kLeftWidth, steps); }

  void copy(int64_t block, Element* to) const {
    with_elements(part(a, block * kRowsPerTask, 0), [&](auto* from) {
      if (!a.transposed) {
        pack_rows<Step>(from, a.ld, rows(block), depth, to, steps * word);
      } else if constexpr (rows_only) {
        pack_transposed_rows(from, a.ld, rows(block), depth, to, steps * word);
      } else {
        pack_panels<Step>(from, a.ld, 0, steps, depth, rows(block), kLeftWidth, panel_size<Step>(kLeftWidth, steps), to);
      }
    });
  }

  Left<Step> copied(const Element* data) const {
    if (!a.transposed || rows_only) return {data, Order::rows, steps * word, kTileRows * steps * word};
    return {data, Order::columns, kLeftWidth * word,
            kLeftWidth == kTileRows ? panel_size<Step>(kLeftWidth, steps) : kTileRows * word};
  }

  Left<Step> in_place(int64_t block) const {
    const Factor rows = part(a, block * kRowsPerTask, 0);
    const Order order = a.transposed ? Order::columns : Order::rows;
    return {static_cast<const Element*>(rows.data), order, a.ld, kTileRows * (a.transposed ? 1 : a.ld)};
  }
};

// The right factor in one range of k and of columns: panels, of which those from `copied` on are copies. Copying is
// split into tasks so that each reads memory in its order: panel by panel if the stored rows are columns, else range by
// range of k.
template <class Step>
struct RightFactor {
  using Element = typename Step::Element;
  static constexpr int word = Step::kPerWord;
  static constexpr int64_t most_panels = kColumns / (2 * kLanes) + 2;

  Factor b;
  int64_t depth, steps;
  Panel<Step> panels[most_panels];
  int64_t count = 0, copied = 0;

  // Rows that lie as the tile wants them are used in place unless `copy_all`; but a narrow last panel never is, because
  // the tile reads all its lanes.
  RightFactor(const Factor& factor, int64_t columns, int64_t depth, int64_t steps, bool copy_all, Scratch& scratch)
      : b(factor), depth(depth), steps(steps) {
    Element* to = room_for<Step>(scratch, (columns / (2 * kLanes) + 2) * panel_size<Step>(2 * kLanes, steps));
    for (int64_t j = 0; j < columns;) {
      const int64_t width = Step::kStepsAtOnce > 1 ? 2 * kLanes : panel_width(columns - j);
      const int64_t present = smaller(width, columns - j);
      if (copy_all || present < width) {
        panels[count++] = {to, width * word, j, present, width};
        to += panel_size<Step>(width, steps);
      } else {
        panels[count++] = {static_cast<const Element*>(b.data) + j, b.ld, j, present, width};
        copied++;
      }
      j += width;
    }
  }

  int64_t tasks() const { return copied == count ? 0 : b.transposed ? count : blocks_of(steps, kStepsPerCopy); }

  void copy(int64_t task) const {
    with_elements(b, [&](auto* from) {
      if (b.transposed) {
        const Panel<Step>& panel = panels[task];
        return pack_transposed_panel<Step>(from + panel.first * b.ld, b.ld, depth, panel.columns, panel.width,
                                           const_cast<Element*>(panel.data));
      }
      const int64_t first = task * kStepsPerCopy, end = smaller(steps, first + kStepsPerCopy);
      for (int64_t p = copied; p < count;) {
        const int64_t width = panels[p].width, j = panels[p].first;
        int64_t q = p;  // behind the panels of this width
        while (q < count && panels[q].width == width) q++;
        const int64_t columns = panels[q - 1].first + panels[q - 1].columns - j;
        pack_panels<Step>(from + j, b.ld, first, end, depth, columns, width, panel_size<Step>(width, steps),
                          const_cast<Element*>(panels[p].data));
        p = q;
      }
    });
  }
};

// What a thread sets up for a task.
template <class Step>
struct Session {};
#if defined(__AMX_BF16__)
template <>
struct Session<Bf16Tiles> : AmxTiles {};
#endif

// One range of k of M × columns of C; the factors and `ends` begin there.
template <class Step>
static void multiply_range(Pool& pool, int64_t M, int64_t columns, int64_t depth, const Factor& a, const Factor& b,
                           const Ends& ends) {
  using Element = typename Step::Element;
  const int64_t steps = steps_of<Step>(depth), row_blocks = blocks_of(M, kRowsPerTask);
  const bool copy_right = Step::kPerWord > 1 || !is_element<Step>(b.dtype) || b.transposed ||
                          (steps * columns > 32768 && M > kRowsPerTask);
  Scratch scratch;
  const LeftFactor<Step> left{a, M, depth, steps};
  const RightFactor<Step> right(b, columns, depth, steps, copy_right, scratch);

  const int64_t copy_size = left.copy_size(steps);
  const bool copy_first = left.needs_copies() && row_blocks < kRowBlocksAlone;
  Element* copies = copy_first ? room_for<Step>(scratch, row_blocks * copy_size) : nullptr;
  const double copy_cost = static_cast<double>(steps) * 2 * kLanes / 4;
  for_tasks(pool, right.tasks() + (copy_first ? row_blocks : 0), copy_cost, [&](int64_t task) {
    const int64_t block = task - right.tasks();
    if (block < 0) return right.copy(task);
    if (left.needs_copy(block)) left.copy(block, copies + block * copy_size);
  });

  const double panel_cost =
      2.0 * static_cast<double>(smaller(M, kRowsPerTask) * steps * 2 * kLanes) / kFlopPerNanosecond;
  const bool copy_alone = left.needs_copies() && !copy_first;
  const int64_t group =
      copy_alone ? right.count : larger(1, smaller(right.count, static_cast<int64_t>(kWorthAThread / panel_cost)));
  const int64_t groups = blocks_of(right.count, group);
  for_tasks(pool, row_blocks * groups, panel_cost * static_cast<double>(group), [&](int64_t task) {
    const int64_t block = task / groups, first = task % groups * group;
    [[maybe_unused]] const Session<Step> session;
    Scratch own;
    Left<Step> rows;
    if (!left.needs_copy(block)) {
      rows = left.in_place(block);
    } else {
      Element* copy = copy_first ? copies + block * copy_size : room_for<Step>(own, copy_size);
      if (!copy_first) left.copy(block, copy);
      rows = left.copied(copy);
    }
    for (int64_t p = first; p < smaller(right.count, first + group); p++) {
      const Panel<Step>& panel = right.panels[p];
      multiply(left.rows(block), steps, rows, panel, ends.at(block * kRowsPerTask, panel.first));
    }
  });
}

// Cuts columns and k into equal ranges.
template <class Step>
static void multiply_ranges(Pool& pool, const Product& p) {
  const int64_t most_columns = round_up(blocks_of(p.N, blocks_of(p.N, kColumns)), 2 * kLanes);
  const int64_t few_steps = round_up(kWordsForFewRows / smaller(p.N, most_columns), 16);
  const int64_t most_steps = p.M > 2 * kRowsPerTask ? kSteps : smaller(kSteps, few_steps);
  const int64_t ranges = blocks_of(p.K, most_steps * Step::kPerWord);
  const int64_t depth = round_up(blocks_of(p.K, ranges), Step::kPerWord * Step::kStepsAtOnce);

  // Sums between two ranges of k: in C itself if they are floats and nothing is added to them.
  const bool between = ranges > 1 && (p.c.dtype == DType::bf16 || p.accumulate || p.add != nullptr);
  const int64_t ld_sums = round_up(smaller(most_columns, p.N), kLanes);
  Scratch scratch;
  float* sums = between ? scratch.floats(p.M * ld_sums) : nullptr;
  for (int64_t n0 = 0; n0 < p.N; n0 += most_columns) {
    for (int64_t k0 = 0; k0 < p.K; k0 += depth) {
      const bool first = k0 == 0, last = k0 + depth >= p.K;
      Ends ends{nullptr, 0, nullptr, 0, false, p.c.from(n0)};
      if (last) {
        ends.add = p.add == nullptr ? nullptr : p.add + n0;
        ends.ld_add = p.ld_add;
        ends.accumulate = p.accumulate;
      } else if (between) {
        ends.c = result(sums, ld_sums);
      }
      if (!first) {
        ends.start = between ? sums : static_cast<const float*>(p.c.from(n0).data);
        ends.ld_start = between ? ld_sums : p.c.ld;
      }
      multiply_range<Step>(pool, p.M, smaller(most_columns, p.N - n0), smaller(depth, p.K - k0), part(p.a, 0, k0),
                           part(p.b, k0, n0), ends);
    }
  }
}

// Without k there is nothing to sum.
static void no_products(const Product& p) {
  for (int64_t i = 0; i < p.M; i++) {
    for (int64_t j = 0; j < p.N; j += kLanes) {
      Vec none[1][1] = {};
      finish(none, Ends{nullptr, 0, p.add, p.ld_add, p.accumulate, p.c}.at(i, j), smaller(kLanes, p.N - j));
    }
  }
}

void gemm(Pool& pool, const Product& p) {
  if (p.M <= 0 || p.N <= 0) return;
  if (p.K <= 0) return no_products(p);
  const bool few = p.M <= kFewRows && !p.a.transposed && p.b.transposed;
  if (p.a.dtype == DType::f32 && p.b.dtype == DType::f32)
    return few ? few_rows<Floats>(pool, p) : multiply_ranges<Floats>(pool, p);
#if defined(__AMX_BF16__)
  few ? few_rows<Bf16Pairs>(pool, p) : multiply_ranges<Bf16Tiles>(pool, p);
#elif defined(__AVX512BF16__)
  few ? few_rows<Bf16Pairs>(pool, p) : multiply_ranges<Bf16Pairs>(pool, p);
#else
  few ? few_rows<RoundedFloats>(pool, p) : multiply_ranges<RoundedFloats>(pool, p);
#endif
}

MOLT_SIMD_END
