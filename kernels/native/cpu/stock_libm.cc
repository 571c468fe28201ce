// Elementwise tfjs kernels that no model here runs in a loop that matters: one libm call per element.
#include <cmath>

#include "../core/op.h"
#include "../core/pool.h"

namespace molt {
namespace {

constexpr int64_t kBlock = 1024;

template <float (*f)(float)>
void unary(const Call& call) {
  const Tensor &in = call.in[0], &out = call.out[0];
  const int64_t n = out.size();
  call.pool->parallel_for((n + kBlock - 1) / kBlock, [&](int64_t block) {
    const int64_t end = n < (block + 1) * kBlock ? n : (block + 1) * kBlock;
    for (int64_t i = block * kBlock; i < end; i++) {
      const float x = in.dtype == DType::i32 ? static_cast<float>(in.i32()[i])
                      : in.dtype == DType::u8 ? static_cast<float>(in.u8()[i])
                                              : in.f32()[i];
      const float y = f(x);
      if (out.dtype == DType::i32) {
        out.i32()[i] = static_cast<int32_t>(y);
      } else {
        out.f32()[i] = y;
      }
    }
  });
}

// Half to even, as tfjs rounds.
float round_even(float x) { return std::nearbyint(x); }

MOLT_KERNEL("Sin", unary<std::sin>);
MOLT_KERNEL("Cos", unary<std::cos>);
MOLT_KERNEL("Erf", unary<std::erf>);
MOLT_KERNEL("Expm1", unary<std::expm1>);
MOLT_KERNEL("Floor", unary<std::floor>);
MOLT_KERNEL("Ceil", unary<std::ceil>);
MOLT_KERNEL("Round", unary<round_even>);

}  // namespace
}  // namespace molt
