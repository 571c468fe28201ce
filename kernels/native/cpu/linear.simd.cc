// A linear layer's three products. Leading dimensions of x and dy are flattened into rows.
#include "gemm.h"
#include "simd.h"

MOLT_SIMD_BEGIN

// {x[R,K], weight[N,K]} → y[R,N] = x · weightᵀ
static void linear(const Call& call) {
  const Tensor &x = call.in[0], &weight = call.in[1];
  const int64_t K = weight.dims[1], N = weight.dims[0], R = x.size() / K;
  gemm(*call.pool, {.M = R, .N = N, .K = K, .a = factor(x, K), .b = transposed(factor(weight, K)),
                    .c = result(call.out[0], N)});
}

// {dy[R,N], weight[N,K]} → dx[R,K] = dy · weight
static void linear_input_grad(const Call& call) {
  const Tensor &dy = call.in[0], &weight = call.in[1];
  const int64_t K = weight.dims[1], N = weight.dims[0], R = dy.size() / N;
  gemm(*call.pool, {.M = R, .N = K, .K = N, .a = factor(dy, N), .b = factor(weight, K), .c = result(call.out[0], K)});
}

// {dy[R,N], x[R,K]} → dweight[N,K] = dyᵀ · x
static void linear_weight_grad(const Call& call) {
  const Tensor &dy = call.in[0], &x = call.in[1];
  const int64_t N = dy.last(), K = x.last(), R = dy.size() / N;
  gemm(*call.pool, {.M = N, .N = K, .K = R, .a = transposed(factor(dy, N)), .b = factor(x, K),
                    .c = result(call.out[0], K)});
}

MOLT_KERNEL("Linear", linear);
MOLT_KERNEL("LinearInputGrad", linear_input_grad);
MOLT_KERNEL("LinearWeightGrad", linear_weight_grad);

MOLT_SIMD_END
