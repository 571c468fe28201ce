// The contract between the addon and its kernels. One kernel = one function over a Call: input and output tensors that
// are already allocated, plus numeric attributes. The registry (kernels/registry.ts on the TypeScript side) has
// validated the shapes, so a kernel never fails; it runs on the stream thread and may split its work over the pool.
// A kernel whose outputs are all empty (some dimension is 0) is not called; a kernel without outputs works in place.
//
// Kernels register themselves by the name that TypeScript uses:   MOLT_KERNEL("RmsNorm", rms_norm);
// Results must not depend on the number of threads: split reductions by fixed block sizes, never by thread.
//
// The same name may be registered once per instruction set (see isa.h); the best one the processor has is used. The
// small member functions are forced inline so that no translation unit emits a copy compiled for its own level.
#pragma once
#include <cstddef>
#include <cstdint>

#include "isa.h"

#define MOLT_INLINE __attribute__((always_inline)) inline

namespace molt {

// bf16 is not a dtype of tfjs: it is how a float32 tensor may be stored (kernels/rows/row.ts). A kernel sees it only in
// the inputs whose row says so.
enum class DType : uint8_t { f32 = 0, i32 = 1, u8 = 2, bf16 = 3 };

// The upper half of a float: 8 bits of exponent, 7 of mantissa.
struct Bf16 {
  uint16_t bits;
};

MOLT_INLINE int64_t dtype_bytes(DType dtype) { return dtype == DType::u8 ? 1 : dtype == DType::bf16 ? 2 : 4; }

constexpr int kMaxRank = 8;

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t dims[kMaxRank] = {};

  MOLT_INLINE int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    return n;
  }
  // dims[i] counted from the end: last(0) is the innermost.
  MOLT_INLINE int64_t last(int i = 0) const { return rank > i ? dims[rank - 1 - i] : 1; }
  template <class T>
  MOLT_INLINE T* as() const { return static_cast<T*>(data); }
  MOLT_INLINE float* f32() const { return static_cast<float*>(data); }
  MOLT_INLINE Bf16* bf16() const { return static_cast<Bf16*>(data); }
  MOLT_INLINE bool is_bf16() const { return dtype == DType::bf16; }
  MOLT_INLINE int32_t* i32() const { return static_cast<int32_t*>(data); }
  MOLT_INLINE uint8_t* u8() const { return static_cast<uint8_t*>(data); }
};

class Pool;  // core/pool.h

struct Call {
  const Tensor* in = nullptr;
  int inputs = 0;
  Tensor* out = nullptr;
  int outputs = 0;
  const double* attrs = nullptr;  // in the order the TypeScript registry encodes them
  int attr_count = 0;
  Pool* pool = nullptr;

  MOLT_INLINE int64_t attr_int(int i) const { return static_cast<int64_t>(attrs[i]); }
  MOLT_INLINE float attr_f32(int i) const { return static_cast<float>(attrs[i]); }
};

using Kernel = void (*)(const Call&);

// Called from static initialisers; the table lives in core/op.cc.
bool register_kernel(const char* name, Kernel kernel, Isa isa);

// The table, in registration order. An index is stable once the process has loaded the addon.
int kernel_count();
const char* kernel_name(int index);
// The variant for active_isa().
Kernel kernel_at(int index);

#define MOLT_CONCAT_(a, b) a##b
#define MOLT_CONCAT(a, b) MOLT_CONCAT_(a, b)
#define MOLT_KERNEL(name, fn)                                       \
  [[maybe_unused]] static const bool MOLT_CONCAT(registered_, __LINE__) = \
      ::molt::register_kernel(name, fn, static_cast<::molt::Isa>(MOLT_ISA_LEVEL))

}  // namespace molt
