// Calls the variant of the matrix product for this machine's vectors.
#include "gemm.h"

#include "../core/isa.h"

namespace molt {

namespace level0 {
void gemm(Pool& pool, const Product& product);
}
#if defined(__x86_64__)
namespace level1 {
void gemm(Pool& pool, const Product& product);
}
namespace level2 {
void gemm(Pool& pool, const Product& product);
}
namespace level3 {
void gemm(Pool& pool, const Product& product);
}
#endif

namespace {

using Gemm = void (*)(Pool&, const Product&);

Gemm choose() {
#if defined(__x86_64__)
  constexpr Gemm variants[kIsaLevels] = {level0::gemm, level1::gemm, level2::gemm, level3::gemm};
  return variants[static_cast<int>(active_isa())];
#else
  return level0::gemm;
#endif
}

}  // namespace

void gemm(Pool& pool, const Product& product) {
  static const Gemm variant = choose();
  variant(pool, product);
}

void gemm_here(const Product& product) {
  // A pool of one runs everything on the caller and keeps nothing of it: any number of threads may share it.
  static Pool nobody(1);
  gemm(nobody, product);
}

}  // namespace molt
