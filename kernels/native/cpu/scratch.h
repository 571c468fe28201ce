// Temporary memory for kernels: a stack per thread that keeps its pages between calls. A kernel opens a Scratch, takes
// as many arrays as it needs, and all are given back when the Scratch goes out of scope. Arrays are 64-byte aligned and
// not cleared. Other threads may use an array while its owner waits for them.
#pragma once
#include <cstddef>
#include <cstdint>

#include "../core/op.h"

namespace molt {

class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  float* floats(int64_t count);
  double* doubles(int64_t count);
  int32_t* ints(int64_t count);
  Bf16* bf16s(int64_t count);

 private:
  void* bytes(size_t count);
  size_t block_;
  size_t used_;
};

}  // namespace molt
