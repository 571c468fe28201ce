// Calls the variant of the matrix product for this machine's vectors.
#include "gemm.h"

#include "../core/isa.h"

namespace molt {

#define MOLT_DECLARE_GEMM(level) \
  namespace level {              \
  void gemm(Pool& pool, const Product& product); \
  }
MOLT_DECLARE_GEMM(level0)
MOLT_DECLARE_GEMM(level1)
MOLT_DECLARE_GEMM(level2)
MOLT_DECLARE_GEMM(level3)
MOLT_DECLARE_GEMM(level4)

void gemm(Pool& pool, const Product& product) {
  static void (*const variants[kIsaLevels])(Pool&, const Product&) = {
    level0::gemm,
#if MOLT_ISA_LEVELS > 2
    level1::gemm,
    level2::gemm,
#endif
#if MOLT_ISA_LEVELS > 3
    level3::gemm,
#endif
#if MOLT_ISA_LEVELS > 4
    level4::gemm,
#endif
  };
  variants[static_cast<int>(active_isa())](pool, product);
}

void gemm_here(const Product& product) {
  // A pool of one runs everything on the caller and keeps nothing of it: any number of threads may share it.
  static Pool nobody(1);
  gemm(nobody, product);
}

}  // namespace molt
