// Finds out once which instruction sets the processor (and the operating system, for the wide registers) supports.
#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace molt {
namespace {

Isa detect() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  return avx512bf16 ? Isa::avx512bf16 : avx512 ? Isa::avx512 : avx2 ? Isa::avx2 : Isa::baseline;
#else
  return Isa::baseline;
#endif
}

Isa limited(Isa best) {
  const char* asked = std::getenv("MOLT_ISA");
  if (asked == nullptr) return best;
  if (std::strcmp(asked, "baseline") == 0) return Isa::baseline;
  for (int level = 0; level < static_cast<int>(best); ++level) {
    if (std::strcmp(asked, isa_name(static_cast<Isa>(level))) == 0) return static_cast<Isa>(level);
  }
  return best;
}

}  // namespace

Isa best_isa() {
  static const Isa best = detect();
  return best;
}

Isa active_isa() {
  static const Isa isa = limited(best_isa());
  return isa;
}

const char* isa_name(Isa isa) {
  if (isa == Isa::avx512bf16) return "avx512bf16";
  if (isa == Isa::avx512) return "avx512";
  if (isa == Isa::avx2) return "avx2";
#if defined(__x86_64__)
  return "sse2";
#elif defined(__aarch64__)
  return "neon";
#else
  return "baseline";
#endif
}

}  // namespace molt
