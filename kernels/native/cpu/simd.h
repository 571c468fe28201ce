// Opens and closes the namespace of the instruction set a *.simd.cc file is being compiled for. The build compiles such
// a file once per level (core/isa.h); kernels register one variant each, and everything else a file defines lies in
// molt::level0, level1 or level2, so that the linker never merges code made for different machines. For the same reason
// templates of the standard library are not used in these files.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../core/isa.h"
#include "../core/op.h"
#include "../core/pool.h"
#include "scratch.h"

#define MOLT_LEVEL MOLT_CONCAT(level, MOLT_ISA_LEVEL)
#define MOLT_SIMD_BEGIN \
  namespace molt {      \
  namespace MOLT_LEVEL {
#define MOLT_SIMD_END \
  }                   \
  }
