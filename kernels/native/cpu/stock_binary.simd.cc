// tfjs's elementwise kernels of two arguments, with broadcasting: arithmetic, comparisons, logic. Loops are plain; the
// compiler vectorises them for each level. The dtypes of the arguments are equal (tfjs casts before).
#include "parallel.h"

MOLT_SIMD_BEGIN

namespace {

// Two arguments seen through the output's shape: strides of 0 where an argument repeats. Neighbouring dimensions that
// both arguments walk evenly are merged, so that most cases end as one or two loops.
struct Broadcast {
  int outer_rank = 0;  // dimensions but the innermost
  int64_t dims[kMaxRank];
  int64_t a_strides[kMaxRank];
  int64_t b_strides[kMaxRank];
  int64_t rows = 1;
  int64_t inner = 1;
  int64_t a_step = 0;  // 1 or 0, of the innermost dimension
  int64_t b_step = 0;
};

Broadcast plan_broadcast(const Tensor& a, const Tensor& b, const Tensor& out) {
  Broadcast plan;
  int64_t dims[kMaxRank], a_strides[kMaxRank], b_strides[kMaxRank];
  int rank = 0;
  int64_t a_stride = 1, b_stride = 1;
  // From the innermost dimension outwards.
  for (int i = 0; i < out.rank; i++) {
    const int64_t n = out.last(i), a_n = a.last(i), b_n = b.last(i);
    if (n == 1) continue;
    const int64_t sa = a_n == 1 ? 0 : a_stride, sb = b_n == 1 ? 0 : b_stride;
    a_stride *= a_n;
    b_stride *= b_n;
    const bool merges = rank > 0 && sa == a_strides[rank - 1] * dims[rank - 1] && sb == b_strides[rank - 1] * dims[rank - 1];
    if (merges) {
      dims[rank - 1] *= n;
    } else {
      dims[rank] = n;
      a_strides[rank] = sa;
      b_strides[rank] = sb;
      rank++;
    }
  }
  if (rank > 0) {
    plan.inner = dims[0];
    plan.a_step = a_strides[0];
    plan.b_step = b_strides[0];
  }
  for (int i = 1; i < rank; i++) {
    plan.dims[i - 1] = dims[i];
    plan.a_strides[i - 1] = a_strides[i];
    plan.b_strides[i - 1] = b_strides[i];
    plan.rows *= dims[i];
  }
  plan.outer_rank = rank > 0 ? rank - 1 : 0;
  return plan;
}

// Not inlined: it has four loops, and two callers.
template <class Op, class Out>
__attribute__((noinline)) void apply_run(const float* __restrict a, int64_t a_step, const float* __restrict b,
                                         int64_t b_step, Out* __restrict out, int64_t n) {
  constexpr Op op{};
  if (a_step != 0 && b_step != 0) {
    for (int64_t i = 0; i < n; i++) out[i] = op(a[i], b[i]);
  } else if (a_step != 0) {
    const float right = b[0];
    for (int64_t i = 0; i < n; i++) out[i] = op(a[i], right);
  } else if (b_step != 0) {
    const float left = a[0];
    for (int64_t i = 0; i < n; i++) out[i] = op(left, b[i]);
  } else {
    const Out value = op(a[0], b[0]);
    for (int64_t i = 0; i < n; i++) out[i] = value;
  }
}

constexpr int64_t kRun = 16384;       // elements of a long run one task takes
constexpr double kNanoseconds = 0.3;  // per element, in memory

// run(a, a step, b, b step, out, n): one contiguous stretch of the output. Sizes and steps are in elements.
template <class A, class B, class Out, class Run>
void for_runs(const Call& call, const Run& run) {
  const Broadcast plan = plan_broadcast(call.in[0], call.in[1], call.out[0]);
  const A* const a = call.in[0].as<A>();
  const B* const b = call.in[1].as<B>();
  Out* const out = call.out[0].as<Out>();
  if (plan.rows == 1) {
    for_tasks(*call.pool, blocks_of(plan.inner, kRun), kRun * kNanoseconds, [&](int64_t task) {
      const int64_t from = task * kRun, n = smaller(kRun, plan.inner - from);
      run(a + from * plan.a_step, plan.a_step, b + from * plan.b_step, plan.b_step, out + from, n);
    });
    return;
  }
  const double row_cost = 3 + static_cast<double>(plan.inner) * kNanoseconds;
  for_row_blocks(*call.pool, plan.rows, row_cost, [&](int64_t first, int64_t end) {
    int64_t index[kMaxRank] = {}, a_at = 0, b_at = 0;
    for (int64_t i = 0, rest = first; i < plan.outer_rank; i++) {
      index[i] = rest % plan.dims[i];
      rest /= plan.dims[i];
      a_at += index[i] * plan.a_strides[i];
      b_at += index[i] * plan.b_strides[i];
    }
    for (int64_t row = first; row < end; row++) {
      run(a + a_at, plan.a_step, b + b_at, plan.b_step, out + row * plan.inner, plan.inner);
      for (int i = 0; i < plan.outer_rank; i++) {
        a_at += plan.a_strides[i];
        b_at += plan.b_strides[i];
        if (++index[i] < plan.dims[i]) break;
        a_at -= plan.dims[i] * plan.a_strides[i];
        b_at -= plan.dims[i] * plan.b_strides[i];
        index[i] = 0;
      }
    }
  });
}

// Floats are what models compute with: their loops are compiled for each operation.
template <class Op, class Out>
void binary_float(const Call& call) {
  for_runs<float, float, Out>(call, apply_run<Op, Out>);
}

// Integers and bools (as 0 and 1) go through one loop that calls the operation, in int32.
using IntOp = int32_t (*)(int32_t, int32_t);

template <class In, class Out>
void binary_int(const Call& call, IntOp op) {
  for_runs<In, In, Out>(call, [op](const In* a, int64_t a_step, const In* b, int64_t b_step, Out* out, int64_t n) {
    for (int64_t i = 0; i < n; i++) out[i] = static_cast<Out>(op(a[i * a_step], b[i * b_step]));
  });
}

template <class Op>
int32_t int_op(int32_t a, int32_t b) {
  return Op{}(a, b);
}

// ---- arithmetic: the output has the arguments' dtype ----------------------------------------------------------------

template <class Op>
void arithmetic(const Call& call) {
  switch (call.out[0].dtype) {
    case DType::i32: return binary_int<int32_t, int32_t>(call, int_op<Op>);
    case DType::u8: return binary_int<uint8_t, uint8_t>(call, int_op<Op>);
    default: return binary_float<Op, float>(call);
  }
}

// Integers wrap around as in JavaScript's typed arrays; signed overflow would be undefined here.
MOLT_INLINE float wrap(float x) { return x; }
MOLT_INLINE uint32_t wrap(int32_t x) { return static_cast<uint32_t>(x); }

struct Add {
  template <class T>
  MOLT_INLINE T operator()(T a, T b) const { return static_cast<T>(wrap(a) + wrap(b)); }
};
struct Sub {
  template <class T>
  MOLT_INLINE T operator()(T a, T b) const { return static_cast<T>(wrap(a) - wrap(b)); }
};
struct Multiply {
  template <class T>
  MOLT_INLINE T operator()(T a, T b) const { return static_cast<T>(wrap(a) * wrap(b)); }
};
struct SquaredDifference {
  template <class T>
  MOLT_INLINE T operator()(T a, T b) const { return Multiply{}(Sub{}(a, b), Sub{}(a, b)); }
};
struct RealDiv {
  template <class T>
  MOLT_INLINE T operator()(T a, T b) const { return static_cast<T>(static_cast<float>(a) / static_cast<float>(b)); }
};
// NaN if either is.
struct Maximum {
  template <class T>
  MOLT_INLINE T operator()(T a, T b) const { return a > b || a != a ? a : b; }
};
struct Minimum {
  template <class T>
  MOLT_INLINE T operator()(T a, T b) const { return a < b || a != a ? a : b; }
};

// Add also takes what is stored as bf16: residuals meet activations here. The sum is bf16 if both are.
template <class A, class B, class Out>
void add_run(const A* a, int64_t a_step, const B* b, int64_t b_step, Out* out, int64_t n) {
  const Vec left = splat(load_part<Vec>(a, 1)[0]), right = splat(load_part<Vec>(b, 1)[0]);
  for_row(n, [&](auto at) { at.store(out, (a_step != 0 ? at.load(a) : left) + (b_step != 0 ? at.load(b) : right)); });
}

void add(const Call& call) {
  const bool a_halves = call.in[0].is_bf16(), b_halves = call.in[1].is_bf16();
  if (a_halves && b_halves) return for_runs<Bf16, Bf16, Bf16>(call, add_run<Bf16, Bf16, Bf16>);
  if (a_halves) return for_runs<Bf16, float, float>(call, add_run<Bf16, float, float>);
  if (b_halves) return for_runs<float, Bf16, float>(call, add_run<float, Bf16, float>);
  arithmetic<Add>(call);
}

// ---- comparisons and logic: the output is bool ------------------------------------------------------------------------

template <class Op>
void comparison(const Call& call) {
  switch (call.in[0].dtype) {
    case DType::i32: return binary_int<int32_t, uint8_t>(call, int_op<Op>);
    case DType::u8: return binary_int<uint8_t, uint8_t>(call, int_op<Op>);
    default: return binary_float<Op, uint8_t>(call);
  }
}

#define MOLT_COMPARISON(name, expression)                                     \
  struct name {                                                               \
    template <class T>                                                        \
    MOLT_INLINE uint8_t operator()(T a, T b) const { return (expression) ? 1 : 0; } \
  };
MOLT_COMPARISON(Equal, a == b)
MOLT_COMPARISON(NotEqual, a != b)
MOLT_COMPARISON(Greater, a > b)
MOLT_COMPARISON(GreaterEqual, a >= b)
MOLT_COMPARISON(Less, a < b)
MOLT_COMPARISON(LessEqual, a <= b)
MOLT_COMPARISON(LogicalAnd, a != 0 && b != 0)
MOLT_COMPARISON(LogicalOr, a != 0 || b != 0)

MOLT_KERNEL("Add", add);
MOLT_KERNEL("Sub", arithmetic<Sub>);
MOLT_KERNEL("Multiply", arithmetic<Multiply>);
MOLT_KERNEL("SquaredDifference", arithmetic<SquaredDifference>);
MOLT_KERNEL("RealDiv", arithmetic<RealDiv>);
MOLT_KERNEL("Maximum", arithmetic<Maximum>);
MOLT_KERNEL("Minimum", arithmetic<Minimum>);
MOLT_KERNEL("Equal", comparison<Equal>);
MOLT_KERNEL("NotEqual", comparison<NotEqual>);
MOLT_KERNEL("Greater", comparison<Greater>);
MOLT_KERNEL("GreaterEqual", comparison<GreaterEqual>);
MOLT_KERNEL("Less", comparison<Less>);
MOLT_KERNEL("LessEqual", comparison<LessEqual>);
MOLT_KERNEL("LogicalAnd", comparison<LogicalAnd>);
MOLT_KERNEL("LogicalOr", comparison<LogicalOr>);

}  // namespace

MOLT_SIMD_END
