// The products of linear layers, alone, onto a residual, with several weights side by side, or with a result in two
// parts. Leading dimensions of x and dy are flattened into rows. Factors may be bf16; gradients are float32.
#include "gemm.h"
#include "simd.h"

MOLT_SIMD_BEGIN

// y[R,N] = x[R,K] · weight[N,K]ᵀ, and its two gradients, where `weight` may be some rows of a larger one and y or dy some
// columns.
static Product forward(int64_t R, const Tensor& x, Factor weight, int64_t N, int64_t K, Result y) {
  return {.M = R, .N = N, .K = K, .a = factor(x, K), .b = transposed(weight), .c = y};
}

static Product input_grad(int64_t R, Factor dy, Factor weight, int64_t N, int64_t K, const Tensor& dx) {
  return {.M = R, .N = K, .K = N, .a = dy, .b = weight, .c = result(dx, K)};
}

static Product weight_grad(int64_t R, Factor dy, const Tensor& x, int64_t N, int64_t K, Result dweight) {
  return {.M = N, .N = K, .K = R, .a = transposed(dy), .b = factor(x, K), .c = dweight};
}

// {x[R,K], weight[N,K]} → y[R,N]
static void linear(const Call& call) {
  const Tensor &x = call.in[0], &weight = call.in[1];
  const int64_t K = weight.dims[1], N = weight.dims[0];
  gemm(*call.pool, forward(x.size() / K, x, factor(weight, K), N, K, result(call.out[0], N)));
}

// {x[R,K], weight[N,K], residual[R,N]} → residual + x · weightᵀ
static void linear_add(const Call& call) {
  const Tensor &x = call.in[0], &weight = call.in[1];
  const int64_t K = weight.dims[1], N = weight.dims[0];
  Product product = forward(x.size() / K, x, factor(weight, K), N, K, result(call.out[0], N));
  product.add = call.in[2].f32();
  product.ld_add = N;
  gemm(*call.pool, product);
}

// {dy[R,N], weight[N,K]} → dx[R,K]
static void linear_input_grad(const Call& call) {
  const Tensor &dy = call.in[0], &weight = call.in[1];
  const int64_t K = weight.dims[1], N = weight.dims[0];
  gemm(*call.pool, input_grad(dy.size() / N, factor(dy, N), factor(weight, K), N, K, call.out[0]));
}

// {dy[R,N], x[R,K]} → dweight[N,K]
static void linear_weight_grad(const Call& call) {
  const Tensor &dy = call.in[0], &x = call.in[1];
  const int64_t N = dy.last(), K = x.last();
  gemm(*call.pool, weight_grad(dy.size() / N, factor(dy, N), x, N, K, result(call.out[0], K)));
}

// {x[R,K], weight[N,K]} [first, rest] → [y[R,first], y[R,rest]]
static void linear_split(const Call& call) {
  const Tensor &x = call.in[0], &weight = call.in[1];
  const int64_t K = weight.dims[1], R = x.size() / K;
  int64_t row = 0;
  for (int part = 0; part < 2; part++) {
    const int64_t N = call.attr_int(part);
    gemm(*call.pool, forward(R, x, factor(weight, K).from(row * K), N, K, result(call.out[part], N)));
    row += N;
  }
}

// {dyFirst[R,first], dyRest[R,rest], weight[N,K]} → dx[R,K]
static void linear_split_input_grad(const Call& call) {
  const Tensor& weight = call.in[2];
  const int64_t K = weight.dims[1];
  int64_t row = 0;
  for (int part = 0; part < 2; part++) {
    const Tensor& dy = call.in[part];
    const int64_t N = dy.last();
    Product product = input_grad(dy.size() / N, factor(dy, N), factor(weight, K).from(row * K), N, K, call.out[0]);
    product.accumulate = part > 0;
    gemm(*call.pool, product);
    row += N;
  }
}

// {dyFirst[R,first], dyRest[R,rest], x[R,K]} → dweight[N,K]
static void linear_split_weight_grad(const Call& call) {
  const Tensor& x = call.in[2];
  const int64_t K = x.last();
  int64_t row = 0;
  for (int part = 0; part < 2; part++) {
    const Tensor& dy = call.in[part];
    const int64_t N = dy.last();
    gemm(*call.pool, weight_grad(dy.size() / N, factor(dy, N), x, N, K, result(call.out[0], K).from(row * K)));
    row += N;
  }
}

// {x[R,K], first[A,K], second[B,K], third[C,K]} → y[R,A+B+C]
static void linear_joined(const Call& call) {
  const Tensor &x = call.in[0], &y = call.out[0];
  const int64_t K = x.last(), R = x.size() / K;
  int64_t column = 0;
  for (int part = 1; part <= 3; part++) {
    const Tensor& weight = call.in[part];
    const int64_t N = weight.dims[0];
    gemm(*call.pool, forward(R, x, factor(weight, K), N, K, result(y, y.last()).from(column)));
    column += N;
  }
}

// {dy[R,A+B+C], first[A,K], second[B,K], third[C,K]} → dx[R,K]
static void linear_joined_input_grad(const Call& call) {
  const Tensor& dy = call.in[0];
  const int64_t columns = dy.last(), R = dy.size() / columns;
  int64_t column = 0;
  for (int part = 1; part <= 3; part++) {
    const Tensor& weight = call.in[part];
    const int64_t N = weight.dims[0], K = weight.dims[1];
    Product product = input_grad(R, factor(dy, columns).from(column), factor(weight, K), N, K, call.out[0]);
    product.accumulate = part > 1;
    gemm(*call.pool, product);
    column += N;
  }
}

// {dy[R,A+B+C], x[R,K]} [from, rows] → dweight[rows,K] of the weight whose columns of dy begin at `from`
static void linear_joined_weight_grad(const Call& call) {
  const Tensor &dy = call.in[0], &x = call.in[1];
  const int64_t columns = dy.last(), K = x.last();
  gemm(*call.pool, weight_grad(dy.size() / columns, factor(dy, columns).from(call.attr_int(0)), x, call.attr_int(1), K,
                               result(call.out[0], K)));
}

MOLT_KERNEL("Linear", linear);
MOLT_KERNEL("LinearAdd", linear_add);
MOLT_KERNEL("LinearInputGrad", linear_input_grad);
MOLT_KERNEL("LinearWeightGrad", linear_weight_grad);
MOLT_KERNEL("LinearSplit", linear_split);
MOLT_KERNEL("LinearSplitInputGrad", linear_split_input_grad);
MOLT_KERNEL("LinearSplitWeightGrad", linear_split_weight_grad);
MOLT_KERNEL("LinearJoined", linear_joined);
MOLT_KERNEL("LinearJoinedInputGrad", linear_joined_input_grad);
MOLT_KERNEL("LinearJoinedWeightGrad", linear_joined_weight_grad);

MOLT_SIMD_END
