// tfjs's reductions over any set of axes. Neighbouring axes that are both kept or both reduced are merged; what is left
// ends in a run that is either reduced (rows) or kept (columns), and the two cases below cover everything.
//
// Sums accumulate in double, in an order that depends on the shape alone: blocks of kRun elements of a row, chunks of
// kChunk rows of a column.
//
// in [x]; out [y] without the reduced axes (or with ones in their place); attrs: the reduced axes.
#include "parallel.h"

MOLT_SIMD_BEGIN

namespace {

constexpr int64_t kRun = 16384;
constexpr int64_t kChunk = 2048;
constexpr int64_t kColumns = 256;
constexpr double kNanoseconds = 0.3;  // per element

// Some dimensions of the input, walked in order.
struct Walk {
  int rank = 0;
  int64_t count = 1;
  int64_t dims[kMaxRank];
  int64_t strides[kMaxRank];

  void append(int64_t n, int64_t stride) {
    dims[rank] = n;
    strides[rank] = stride;
    rank++;
    count *= n;
  }

  void prepend(int64_t n, int64_t stride) {
    for (int i = rank; i > 0; i--) {
      dims[i] = dims[i - 1];
      strides[i] = strides[i - 1];
    }
    dims[0] = n;
    strides[0] = stride;
    rank++;
    count *= n;
  }

  int64_t offset(int64_t index) const {
    int64_t at = 0;
    for (int i = rank - 1; i >= 0; i--) {
      at += index % dims[i] * strides[i];
      index /= dims[i];
    }
    return at;
  }
};

struct Reduction {
  Walk kept;
  Walk reduced;
  int64_t run = 1;  // the innermost, contiguous elements
  bool run_reduced = true;
};

Reduction plan_reduction(const Call& call) {
  const Tensor& x = call.in[0];
  bool reduce[kMaxRank] = {};
  for (int i = 0; i < call.attr_count; i++) reduce[call.attr_int(i)] = true;

  Reduction plan;
  bool first = true;
  bool group_reduced = true;
  int64_t group = 1, stride = 1;
  const auto close_group = [&] {
    if (first) {
      plan.run = group;
      plan.run_reduced = group_reduced;
      first = false;
    } else {
      (group_reduced ? plan.reduced : plan.kept).prepend(group, stride / group);
    }
  };
  for (int i = x.rank - 1; i >= 0; i--) {
    if (x.dims[i] == 1) continue;
    if (group > 1 && reduce[i] != group_reduced) {
      close_group();
      group = 1;
    }
    group_reduced = reduce[i];
    group *= x.dims[i];
    stride *= x.dims[i];
  }
  close_group();
  return plan;
}

template <class T>
T* scratch_of(Scratch& scratch, int64_t count) {
  static_assert(sizeof(T) == sizeof(double));
  return reinterpret_cast<T*>(scratch.doubles(count));
}

// What a reduction of no elements gives.
template <class Op>
void fill_empty(const Call& call) {
  for (int64_t i = 0; i < call.out[0].size(); i++) call.out[0].as<typename Op::Out>()[i] = Op::finish(Op::start(), 0);
}

// Op: In, Out, Acc (8 bytes); start(), run(in, n) of a contiguous run, add(acc, acc), element(in), finish(acc, count).
template <class Op>
void reduce(const Call& call) {
  using Acc = typename Op::Acc;
  const typename Op::In* const in = call.in[0].as<typename Op::In>();
  typename Op::Out* const out = call.out[0].as<typename Op::Out>();
  const int64_t outputs = call.out[0].size(), inputs = call.in[0].size();
  if (inputs == 0) return fill_empty<Op>(call);
  const Reduction plan = plan_reduction(call);
  const int64_t count = inputs / outputs;
  Scratch scratch;

  if (plan.run_reduced) {
    const int64_t blocks = blocks_of(plan.run, kRun), parts = plan.reduced.count * blocks;
    const auto part = [&](int64_t output, int64_t index) {
      const int64_t block = index % blocks;
      const int64_t at = plan.kept.offset(output) + plan.reduced.offset(index / blocks) + block * kRun;
      return Op::run(in + at, smaller(kRun, plan.run - block * kRun));
    };
    const auto finish = [&](int64_t output, auto&& next) {
      Acc sum = Op::start();
      for (int64_t i = 0; i < parts; i++) sum = Op::add(sum, next(i));
      out[output] = Op::finish(sum, count);
    };
    if (blocks == 1) {
      const double cost = 5.0 * static_cast<double>(parts) + kNanoseconds * static_cast<double>(count);
      for_row_blocks(*call.pool, outputs, cost, [&](int64_t from, int64_t end) {
        for (int64_t o = from; o < end; o++) finish(o, [&](int64_t i) { return part(o, i); });
      });
      return;
    }
    Acc* const partial = scratch_of<Acc>(scratch, outputs * parts);
    for_tasks(*call.pool, outputs * parts, kRun * kNanoseconds,
              [&](int64_t i) { partial[i] = part(i / parts, i % parts); });
    for (int64_t o = 0; o < outputs; o++) finish(o, [&](int64_t i) { return partial[o * parts + i]; });
    return;
  }

  const int64_t column_blocks = blocks_of(plan.run, kColumns), chunks = blocks_of(plan.reduced.count, kChunk);
  Acc* const partial = chunks > 1 ? scratch_of<Acc>(scratch, outputs * chunks) : nullptr;
  const double cost = kNanoseconds * static_cast<double>(smaller(kColumns, plan.run) * smaller(kChunk, plan.reduced.count));
  for_tasks(*call.pool, plan.kept.count * column_blocks * chunks, cost, [&](int64_t task) {
    const int64_t chunk = task % chunks, columns = task / chunks % column_blocks * kColumns;
    const int64_t kept = task / chunks / column_blocks;
    const int64_t n = smaller(kColumns, plan.run - columns);
    alignas(64) Acc sums[kColumns];
    for (int64_t i = 0; i < n; i++) sums[i] = Op::start();
    const auto* const first = in + plan.kept.offset(kept) + columns;
    const int64_t end = smaller(plan.reduced.count, (chunk + 1) * kChunk);
    for (int64_t r = chunk * kChunk; r < end; r++) {
      const auto* __restrict const row = first + plan.reduced.offset(r);
      for (int64_t i = 0; i < n; i++) sums[i] = Op::add(sums[i], Op::element(row[i]));
    }
    const int64_t at = kept * plan.run + columns;
    for (int64_t i = 0; i < n; i++) {
      if (chunks > 1) {
        partial[chunk * outputs + at + i] = sums[i];
      } else {
        out[at + i] = Op::finish(sums[i], count);
      }
    }
  });
  if (chunks == 1) return;
  for (int64_t o = 0; o < outputs; o++) {
    Acc sum = Op::start();
    for (int64_t c = 0; c < chunks; c++) sum = Op::add(sum, partial[c * outputs + o]);
    out[o] = Op::finish(sum, count);
  }
}

// One element after the other: for integers and products, which no model reduces in a loop that matters.
template <class Op>
void reduce_plainly(const Call& call) {
  const auto* const in = call.in[0].as<typename Op::In>();
  auto* const out = call.out[0].as<typename Op::Out>();
  const int64_t outputs = call.out[0].size(), count = call.in[0].size() / outputs;
  if (count == 0) return fill_empty<Op>(call);
  Reduction plan = plan_reduction(call);
  (plan.run_reduced ? plan.reduced : plan.kept).append(plan.run, 1);
  for (int64_t o = 0; o < outputs; o++) {
    typename Op::Acc acc = Op::start();
    const auto* const from = in + plan.kept.offset(o);
    for (int64_t i = 0; i < count; i++) acc = Op::add(acc, Op::element(from[plan.reduced.offset(i)]));
    out[o] = Op::finish(acc, count);
  }
}

// ---- sums --------------------------------------------------------------------------------------------------------

// Four vectors of float over 512 elements, then double.
double sum_run(const float* in, int64_t n) {
  constexpr int64_t kStretch = 512;
  double total = 0;
  int64_t at = 0;
  for (; at + kStretch <= n; at += kStretch) {
    Vec sums[4] = {};
    for (int64_t i = 0; i < kStretch; i += 4 * kLanes) {
      for (int j = 0; j < 4; j++) sums[j] += load<Vec>(in + at + i + j * kLanes);
    }
    total += sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
  }
  Vec rest{};
  for_row(n - at, [&](auto place) { rest += place.load(in + at); });
  return total + sum(rest);
}

struct SumFloat {
  using In = float;
  using Out = float;
  using Acc = double;
  static Acc start() { return 0; }
  static Acc add(Acc a, Acc b) { return a + b; }
  static Acc element(In x) { return x; }
  static Acc run(const In* in, int64_t n) { return sum_run(in, n); }
  static Out finish(Acc sum, int64_t) { return static_cast<float>(sum); }
};

struct MeanFloat : SumFloat {
  static Out finish(Acc sum, int64_t count) { return static_cast<float>(sum / static_cast<double>(count)); }
};

template <class T>
struct SumInt {
  using In = T;
  using Out = int32_t;
  using Acc = int64_t;
  static Acc start() { return 0; }
  static Acc add(Acc a, Acc b) { return a + b; }
  static Acc element(In x) { return x; }
  static Out finish(Acc sum, int64_t) { return static_cast<int32_t>(sum); }
};

template <class T>
struct MeanInt : SumInt<T> {
  using Out = float;
  static Out finish(int64_t sum, int64_t count) { return static_cast<float>(static_cast<double>(sum) / static_cast<double>(count)); }
};

template <class T, class To>
struct Product {
  using In = T;
  using Out = To;
  using Acc = double;
  static Acc start() { return 1; }
  static Acc add(Acc a, Acc b) { return a * b; }
  static Acc element(In x) { return static_cast<double>(x); }
  static Out finish(Acc product, int64_t) { return static_cast<Out>(product); }
};

// ---- extremes: NaN if any element is -----------------------------------------------------------------------------------

// Sign +1: maximum, −1: minimum (of the negated elements).
template <class T, int Sign>
struct Extreme {
  using In = T;
  using Out = T;
  using Acc = double;  // holds every float and every int32 exactly
  static Acc start() { return -__builtin_inf(); }
  static Acc add(Acc a, Acc b) { return a > b || a != a ? a : b; }
  static Acc element(In x) { return Sign * static_cast<double>(x); }
  // Of floats only.
  static Acc run(const In* in, int64_t n) {
    Vec most = splat(-__builtin_inff());
    for_row(n, [&](auto at) {
      const Vec x = at.keep(static_cast<float>(Sign) * at.load(in), -__builtin_inff());
      most = x > most || x != x ? x : most;
    });
    Acc acc = start();
    for (int i = 0; i < kLanes; i++) acc = add(acc, most[i]);
    return acc;
  }
  static Out finish(Acc most, int64_t) { return static_cast<Out>(Sign * most); }
};

// ---- by dtype --------------------------------------------------------------------------------------------------------

void sum_kernel(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::i32: return reduce_plainly<SumInt<int32_t>>(call);
    case DType::u8: return reduce_plainly<SumInt<uint8_t>>(call);
    default: return reduce<SumFloat>(call);
  }
}

void mean(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::i32: return reduce_plainly<MeanInt<int32_t>>(call);
    case DType::u8: return reduce_plainly<MeanInt<uint8_t>>(call);
    default: return reduce<MeanFloat>(call);
  }
}

void prod(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::i32: return reduce_plainly<Product<int32_t, int32_t>>(call);
    case DType::u8: return reduce_plainly<Product<uint8_t, int32_t>>(call);
    default: return reduce_plainly<Product<float, float>>(call);
  }
}

template <int Sign>
void extreme(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::i32: return reduce_plainly<Extreme<int32_t, Sign>>(call);
    case DType::u8: return reduce_plainly<Extreme<uint8_t, Sign>>(call);
    default: return reduce<Extreme<float, Sign>>(call);
  }
}

// attrs [axis]. The first of equal elements.
template <class T, int Sign>
void arg_extreme_of(const Call& call) {
  const Tensor& x = call.in[0];
  const int axis = static_cast<int>(call.attr_int(0));
  int64_t inner = 1;
  for (int i = axis + 1; i < x.rank; i++) inner *= x.dims[i];
  const int64_t n = x.dims[axis];
  const T* const in = x.as<T>();
  int32_t* const out = call.out[0].i32();
  for_row_blocks(*call.pool, call.out[0].size(), static_cast<double>(n), [&](int64_t from, int64_t end) {
    for (int64_t o = from; o < end; o++) {
      const T* const column = in + o / inner * n * inner + o % inner;
      int64_t best = 0;
      for (int64_t i = 1; i < n; i++) {
        const T a = column[i * inner], b = column[best * inner];
        if (Sign > 0 ? a > b : a < b) best = i;
      }
      out[o] = static_cast<int32_t>(best);
    }
  });
}

template <int Sign>
void arg_extreme(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::i32: return arg_extreme_of<int32_t, Sign>(call);
    case DType::u8: return arg_extreme_of<uint8_t, Sign>(call);
    default: return arg_extreme_of<float, Sign>(call);
  }
}

MOLT_KERNEL("Sum", sum_kernel);
MOLT_KERNEL("Mean", mean);
MOLT_KERNEL("Prod", prod);
MOLT_KERNEL("Max", extreme<1>);
MOLT_KERNEL("Min", extreme<-1>);
MOLT_KERNEL("ArgMax", arg_extreme<1>);
MOLT_KERNEL("ArgMin", arg_extreme<-1>);

}  // namespace

MOLT_SIMD_END
