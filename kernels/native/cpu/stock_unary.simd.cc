// tfjs's elementwise kernels of one argument that deserve vectors. Arguments that are not float32 are converted a block
// at a time. Kernels of rarer functions are in stock_libm.cc.
#include "stock_math.h"

#include "parallel.h"

MOLT_SIMD_BEGIN

namespace {

constexpr int64_t kBlock = 8192;  // elements a task takes
constexpr int64_t kPiece = 512;   // elements converted at a time

template <class F>
void apply(const float* in, float* out, int64_t n, const F& f) {
  for_row(n, [&](auto at) { at.store(out, f(at.load(in))); });
}

template <class In>
void convert_in(const In* in, float* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<float>(in[i]);
}

template <class Out>
void convert_out(const float* in, Out* out, int64_t n) {
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<Out>(in[i]);
}

template <class F>
void apply_converting(const Tensor& in, const Tensor& out, int64_t from, int64_t n, const F& f) {
  alignas(64) float piece[kPiece];
  for (int64_t at = from; at < from + n; at += kPiece) {
    const int64_t m = smaller(kPiece, from + n - at);
    if (in.dtype == DType::f32) convert_in(in.f32() + at, piece, m);
    if (in.dtype == DType::i32) convert_in(in.i32() + at, piece, m);
    if (in.dtype == DType::u8) convert_in(in.u8() + at, piece, m);
    apply(piece, piece, m, f);
    if (out.dtype == DType::f32) convert_out(piece, out.f32() + at, m);
    if (out.dtype == DType::i32) convert_out(piece, out.i32() + at, m);
    if (out.dtype == DType::u8) convert_out(piece, out.u8() + at, m);
  }
}

// `nanoseconds`: about what one element costs.
template <class F>
void unary(const Call& call, double nanoseconds, const F& f) {
  const Tensor &in = call.in[0], &out = call.out[0];
  const int64_t n = out.size();
  const bool floats = in.dtype == DType::f32 && out.dtype == DType::f32;
  for_tasks(*call.pool, blocks_of(n, kBlock), kBlock * nanoseconds, [&](int64_t block) {
    const int64_t from = block * kBlock, m = smaller(kBlock, n - from);
    if (floats) {
      apply(in.f32() + from, out.f32() + from, m, f);
    } else {
      apply_converting(in, out, from, m, f);
    }
  });
}

// Integers stay exact where the function is one of integers.
template <class F>
void unary_int(const Call& call, const F& f) {
  const int64_t n = call.out[0].size();
  const int32_t* const in = call.in[0].i32();
  int32_t* const out = call.out[0].i32();
  for (int64_t i = 0; i < n; i++) out[i] = static_cast<int32_t>(f(static_cast<uint32_t>(in[i])));
}

void neg(const Call& call) {
  if (call.out[0].dtype == DType::i32) return unary_int(call, [](uint32_t x) { return 0u - x; });
  unary(call, 0.3, [](Vec x) { return -x; });
}

void abs(const Call& call) {
  if (call.out[0].dtype == DType::i32) return unary_int(call, [](uint32_t x) { return x >> 31 ? 0u - x : x; });
  unary(call, 0.3, [](Vec x) { return bits_of<Vec>(IntsOf<Vec>(bits_of<IntsOf<Vec>>(x) & 0x7FFFFFFF)); });
}

void square(const Call& call) {
  if (call.out[0].dtype == DType::i32) return unary_int(call, [](uint32_t x) { return x * x; });
  unary(call, 0.3, [](Vec x) { return x * x; });
}

void relu(const Call& call) { unary(call, 0.3, [](Vec x) { return x < 0.0f ? Vec{} : x; }); }
void relu6(const Call& call) {
  unary(call, 0.3, [](Vec x) { return x < 0.0f ? Vec{} : x > 6.0f ? splat(6.0f) : x; });
}
void sqrt_kernel(const Call& call) { unary(call, 0.5, [](Vec x) { return sqrt(x); }); }
void rsqrt(const Call& call) { unary(call, 0.8, [](Vec x) { return 1.0f / sqrt(x); }); }
void reciprocal(const Call& call) { unary(call, 0.5, [](Vec x) { return 1.0f / x; }); }
void exp_kernel(const Call& call) { unary(call, 0.8, [](Vec x) { return exp_full(x); }); }
void log_kernel(const Call& call) { unary(call, 1, [](Vec x) { return log(x); }); }
void log1p_kernel(const Call& call) { unary(call, 1.2, [](Vec x) { return log1p(x); }); }
void sigmoid_kernel(const Call& call) { unary(call, 0.9, [](Vec x) { return sigmoid(x); }); }
void tanh_kernel(const Call& call) { unary(call, 1.2, [](Vec x) { return tanh(x); }); }

// vec.h's softplus caps e^-|x| harmlessly, but an infinite x would come out of log1p as NaN.
void softplus_kernel(const Call& call) {
  unary(call, 1.2, [](Vec x) { return x > 80.0f ? x : softplus(x); });
}

// attrs [alpha]: 1 above zero, alpha elsewhere; NaN stays NaN.
void step(const Call& call) {
  const Vec below = splat(call.attr_f32(0));
  unary(call, 0.3, [&](Vec x) { return x != x ? x : x > 0.0f ? splat(1.0f) : below; });
}

// 0 for NaN, as tfjs has it.
void sign(const Call& call) {
  unary(call, 0.3, [](Vec x) { return x > 0.0f ? splat(1.0f) : x < 0.0f ? splat(-1.0f) : Vec{}; });
}

// attrs [least, most]
void clip_by_value(const Call& call) {
  const Vec least = splat(call.attr_f32(0)), most = splat(call.attr_f32(1));
  unary(call, 0.3, [&](Vec x) { return x > most ? most : x < least ? least : x; });
}

void logical_not(const Call& call) {
  const int64_t n = call.out[0].size();
  for (int64_t i = 0; i < n; i++) call.out[0].u8()[i] = call.in[0].u8()[i] == 0;
}

MOLT_KERNEL("Neg", neg);
MOLT_KERNEL("Abs", abs);
MOLT_KERNEL("Square", square);
MOLT_KERNEL("Relu", relu);
MOLT_KERNEL("Relu6", relu6);
MOLT_KERNEL("Sqrt", sqrt_kernel);
MOLT_KERNEL("Rsqrt", rsqrt);
MOLT_KERNEL("Reciprocal", reciprocal);
MOLT_KERNEL("Exp", exp_kernel);
MOLT_KERNEL("Log", log_kernel);
MOLT_KERNEL("Log1p", log1p_kernel);
MOLT_KERNEL("Sigmoid", sigmoid_kernel);
MOLT_KERNEL("Softplus", softplus_kernel);
MOLT_KERNEL("Tanh", tanh_kernel);
MOLT_KERNEL("Step", step);
MOLT_KERNEL("Sign", sign);
MOLT_KERNEL("ClipByValue", clip_by_value);
MOLT_KERNEL("LogicalNot", logical_not);

}  // namespace

MOLT_SIMD_END
