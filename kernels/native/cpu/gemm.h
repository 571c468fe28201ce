// Matrix products, the entry point for every kernel that needs one. Row-major, any shape, any leading dimension, factors
// and result stored as float32 or bf16. It picks the code for this machine's vectors, uses the pool only when the product
// is worth waking a thread, and gives the same bits for any number of threads.
//
// Precision: sums are float32. If one factor is stored as bf16, so is the product: values of the other factor are
// rounded to bf16 first. Two float32 factors are multiplied as they are.
//
//   gemm(*call.pool, {.M = R, .N = N, .K = K, .a = factor(x, K), .b = transposed(factor(weight, K)), .c = result(y, N)});
#pragma once
#include <cstdint>

#include "../core/op.h"
#include "../core/pool.h"

namespace molt {

// A factor: `ld` elements lie between the starts of two stored rows. A transposed one is stored the other way round.
struct Factor {
  const void* data;
  DType dtype;
  int64_t ld;
  bool transposed = false;

  // The same factor, beginning so many elements later in memory.
  MOLT_INLINE Factor from(int64_t elements) const {
    return {static_cast<const char*>(data) + elements * dtype_bytes(dtype), dtype, ld, transposed};
  }
};

MOLT_INLINE Factor factor(const float* data, int64_t ld) { return {data, DType::f32, ld}; }
MOLT_INLINE Factor factor(const Bf16* data, int64_t ld) { return {data, DType::bf16, ld}; }
MOLT_INLINE Factor factor(const Tensor& tensor, int64_t ld) { return {tensor.data, tensor.dtype, ld}; }
MOLT_INLINE Factor transposed(Factor f) { return {f.data, f.dtype, f.ld, !f.transposed}; }

struct Result {
  void* data;
  DType dtype;
  int64_t ld;

  MOLT_INLINE Result from(int64_t elements) const {
    return {static_cast<char*>(data) + elements * dtype_bytes(dtype), dtype, ld};
  }
};

MOLT_INLINE Result result(float* data, int64_t ld) { return {data, DType::f32, ld}; }
MOLT_INLINE Result result(Bf16* data, int64_t ld) { return {data, DType::bf16, ld}; }
MOLT_INLINE Result result(const Tensor& tensor, int64_t ld) { return {tensor.data, tensor.dtype, ld}; }

// C[M,N] = a[M,K] · b[K,N] (+ C when `accumulate`) (+ add[M,N], a float32 matrix such as a residual). C may be the same
// memory as `add` with the same leading dimension, but may not overlap a factor. Only the columns that C has are
// written or read.
struct Product {
  int64_t M, N, K;
  Factor a, b;
  Result c;
  bool accumulate = false;
  const float* add = nullptr;
  int64_t ld_add = 0;
};

// With the threads of the pool, from the thread that runs kernels.
void gemm(Pool& pool, const Product& product);
// On the calling thread alone: for tasks of a kernel that has split its work already.
void gemm_here(const Product& product);

// Float32 throughout.
MOLT_INLINE void gemm_f32(Pool& pool, bool transA, bool transB, int64_t M, int64_t N, int64_t K, const float* A,
                          int64_t lda, const float* B, int64_t ldb, float* C, int64_t ldc, bool accumulate) {
  gemm(pool, {.M = M, .N = N, .K = K, .a = {A, DType::f32, lda, transA}, .b = {B, DType::f32, ldb, transB},
              .c = result(C, ldc), .accumulate = accumulate});
}

}  // namespace molt
