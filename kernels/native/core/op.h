// The contract between the addon and its kernels. One kernel = one function over a Call: input and output tensors that
// are already allocated, plus numeric attributes. The registry (kernels/native/registry.ts on the TypeScript side) has
// validated the shapes, so a kernel never fails; it runs on the stream thread and may split its work over the pool.
//
// Kernels register themselves by the name that TypeScript uses:   MOLT_KERNEL("RmsNorm", rms_norm);
// Results must not depend on the number of threads: split reductions by fixed block sizes, never by thread.
#pragma once
#include <cstddef>
#include <cstdint>

namespace molt {

enum class DType : uint8_t { f32 = 0, i32 = 1, u8 = 2, bf16 = 3 };

constexpr int kMaxRank = 8;

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  int rank = 0;
  int64_t dims[kMaxRank] = {};

  int64_t size() const {
    int64_t n = 1;
    for (int i = 0; i < rank; i++) n *= dims[i];
    return n;
  }
  // dims[i] counted from the end: last(0) is the innermost.
  int64_t last(int i = 0) const { return rank > i ? dims[rank - 1 - i] : 1; }
  template <class T>
  T* as() const { return static_cast<T*>(data); }
  float* f32() const { return static_cast<float*>(data); }
  int32_t* i32() const { return static_cast<int32_t*>(data); }
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

  int64_t attr_int(int i) const { return static_cast<int64_t>(attrs[i]); }
  float attr_f32(int i) const { return static_cast<float>(attrs[i]); }
};

using Kernel = void (*)(const Call&);

// Called from static initialisers; the table lives in core/op.cc.
bool register_kernel(const char* name, Kernel kernel);

#define MOLT_CONCAT_(a, b) a##b
#define MOLT_CONCAT(a, b) MOLT_CONCAT_(a, b)
#define MOLT_KERNEL(name, fn) [[maybe_unused]] static const bool MOLT_CONCAT(registered_, __LINE__) = ::molt::register_kernel(name, fn)

}  // namespace molt
