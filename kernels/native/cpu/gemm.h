// Matrix product of float32 matrices, the entry point for every kernel that needs one. Row-major, any shape, any
// leading dimension. It picks the code for this machine's vectors, uses the pool only when the product is worth waking
// a thread, and gives the same bits for any number of threads: every element of C sums its products in the order of k.
#pragma once
#include <cstdint>

#include "../core/pool.h"

namespace molt {

// C[M,N] = op(A)[M,K] · op(B)[K,N], or C += when `accumulate`. op transposes when its flag is set: then A is stored as
// [K,M] and B as [N,K]. lda, ldb, ldc: elements between the starts of two stored rows. C may not overlap A or B.
void gemm_f32(Pool& pool, bool transA, bool transB, int64_t M, int64_t N, int64_t K, const float* A, int64_t lda,
              const float* B, int64_t ldb, float* C, int64_t ldc, bool accumulate);

}  // namespace molt
