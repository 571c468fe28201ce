// Finds out once which instruction sets the processor supports, and the operating system, which must save their registers.
#include "isa.h"

#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace molt {
namespace {

#if defined(__x86_64__)

// Linux gives the tiles, 8 KB of registers a thread, only to processes that ask for them.
[[maybe_unused]] bool amx_permitted() {
#if defined(__linux__)
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

Isa detect() {
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::baseline;
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq") ||
      !__builtin_cpu_supports("avx512vl"))
    return Isa::avx2;
#if MOLT_ISA_LEVELS > 3
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::avx512;
#if MOLT_ISA_LEVELS > 4
  if (__builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && amx_permitted()) return Isa::amx;
#endif
  return Isa::avx512bf16;
#endif
  return Isa::avx512;
}

#else

Isa detect() { return Isa::baseline; }

#endif

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
  if (isa == Isa::amx) return "amx";
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
