// Instruction sets a kernel can be compiled for, and the one this process uses. scripts/build-addon.mjs compiles a file
// named *.simd.cc once for every level up to avx512 with MOLT_ISA_LEVEL set, and for the levels named in its line
// "// levels: …" as well; *_avx2.cc and *_avx512.cc once with that level's flags; and everything else for the baseline
// (x86-64 with SSE2, or arm64 with NEON). Files compiled for a level above the baseline must not emit inline functions
// with external linkage: the linker could pick that copy for everybody. The build checks this.
#pragma once

#ifndef MOLT_ISA_LEVEL
#define MOLT_ISA_LEVEL 0
#endif

namespace molt {

enum class Isa : int { baseline = 0, avx2 = 1, avx512 = 2, avx512bf16 = 3, amx = 4 };

// How many of them this addon is compiled for: an older compiler lacks the last ones, another architecture all but one.
#ifndef MOLT_ISA_LEVELS
#define MOLT_ISA_LEVELS 1
#endif
constexpr int kIsaLevels = MOLT_ISA_LEVELS;

// The best level this processor has, or a lower one asked for by the environment variable MOLT_ISA
// (sse2 | baseline | avx2 | avx512 | avx512bf16 | amx). Asked once, then cached.
Isa active_isa();
// The best level this processor has, whatever MOLT_ISA says: it can run all up to this one.
Isa best_isa();
const char* isa_name(Isa isa);

}  // namespace molt
