// Calls the variant of the matrix product for this machine's vectors.
#include "gemm.h"

#include "../core/isa.h"

namespace molt {

#define MOLT_DECLARE_GEMM(level)                                                                                \
  namespace level {                                                                                             \
  void gemm(Pool& pool, bool transA, bool transB, int64_t M, int64_t N, int64_t K, const float* A, int64_t lda, \
            const float* B, int64_t ldb, float* C, int64_t ldc, bool accumulate);                               \
  }
MOLT_DECLARE_GEMM(level0)
#if defined(__x86_64__)
MOLT_DECLARE_GEMM(level1)
MOLT_DECLARE_GEMM(level2)
#endif

void gemm_f32(Pool& pool, bool transA, bool transB, int64_t M, int64_t N, int64_t K, const float* A, int64_t lda,
              const float* B, int64_t ldb, float* C, int64_t ldc, bool accumulate) {
  auto* gemm = level0::gemm;
#if defined(__x86_64__)
  if (active_isa() == Isa::avx2) gemm = level1::gemm;
  if (active_isa() == Isa::avx512) gemm = level2::gemm;
#endif
  gemm(pool, transA, transB, M, N, K, A, lda, B, ldb, C, ldc, accumulate);
}

}  // namespace molt
