// tfjs's BatchMatMul: leading dimensions broadcast, each matrix may be transposed.
// in: a [..., M, K] or [..., K, M], b [..., K, N] or [..., N, K]; out [..., M, N]; attrs [transposeA, transposeB].
#include "../core/op.h"
#include "../core/pool.h"
#include "gemm.h"

namespace molt {
namespace {

// Multiplications that one thread does in about 0.1 ms.
constexpr int64_t kSmallProduct = int64_t{128} * 128 * 128 * 2;
// Multiplications that outweigh waking threads.
constexpr int64_t kWorthThreads = int64_t{64} * 64 * 64;

// Which matrix of `tensor` belongs to matrix number `batch` of the output.
int64_t batch_index(const Tensor& tensor, const Tensor& out, int64_t batch) {
  int64_t index = 0, stride = 1;
  for (int i = 2; i < out.rank; i++) {
    const int64_t coordinate = batch % out.last(i);
    batch /= out.last(i);
    if (tensor.last(i) != 1) index += coordinate * stride;
    stride *= tensor.last(i);
  }
  return index;
}

// Rare (index arithmetic): no more than correct. Wraps around like tfjs's int32.
void multiply_int(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const int32_t* a, int64_t lda,
                  const int32_t* b, int64_t ldb, int32_t* c) {
  for (int64_t i = 0; i < m; i++) {
    for (int64_t j = 0; j < n; j++) {
      uint32_t sum = 0;
      for (int64_t p = 0; p < k; p++) {
        const auto left = static_cast<uint32_t>(transpose_a ? a[p * lda + i] : a[i * lda + p]);
        const auto right = static_cast<uint32_t>(transpose_b ? b[j * ldb + p] : b[p * ldb + j]);
        sum += left * right;
      }
      c[i * n + j] = static_cast<int32_t>(sum);
    }
  }
}

void batch_matmul(const Call& call) {
  const Tensor &a = call.in[0], &b = call.in[1], &out = call.out[0];
  const bool transpose_a = call.attr_int(0) != 0, transpose_b = call.attr_int(1) != 0;
  const int64_t m = out.last(1), n = out.last(0), k = transpose_a ? a.last(1) : a.last(0);
  const int64_t a_size = a.last(0) * a.last(1), b_size = b.last(0) * b.last(1);
  const int64_t batches = out.size() / (m * n);

  // One matrix for a whole batch of row blocks is a single, taller product.
  if (out.dtype == DType::f32 && !transpose_a && b.size() == b_size && a.size() == batches * a_size) {
    gemm(*call.pool, {.M = batches * m, .N = n, .K = k, .a = factor(a, k),
                      .b = {b.data, DType::f32, b.last(0), transpose_b}, .c = result(out, n)});
    return;
  }
  const auto multiply = [&](Pool& pool, int64_t batch) {
    const int64_t a_at = batch_index(a, out, batch) * a_size, b_at = batch_index(b, out, batch) * b_size;
    if (out.dtype == DType::i32) {
      multiply_int(transpose_a, transpose_b, m, n, k, a.i32() + a_at, a.last(0), b.i32() + b_at, b.last(0),
                   out.i32() + batch * m * n);
    } else {
      gemm(pool, {.M = m, .N = n, .K = k, .a = {a.f32() + a_at, DType::f32, a.last(0), transpose_a},
                  .b = {b.f32() + b_at, DType::f32, b.last(0), transpose_b}, .c = result(out.f32() + batch * m * n, n)});
    }
  };
  // Many small products: one thread each. Few or large ones: all threads on each in turn.
  static Pool one_thread(1);
  if (batches > 1 && m * n * k <= kSmallProduct && batches * m * n * k > kWorthThreads) {
    call.pool->parallel_for(batches, [&](int64_t batch) { multiply(one_thread, batch); });
  } else {
    for (int64_t batch = 0; batch < batches; batch++) multiply(*call.pool, batch);
  }
}

MOLT_KERNEL("BatchMatMul", batch_matmul);

}  // namespace
}  // namespace molt
