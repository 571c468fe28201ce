#include "scratch.h"

#include <cstdlib>
#include <new>
#include <vector>

namespace molt {
namespace {

constexpr size_t kAlign = 64;
constexpr size_t kFirstBlock = size_t{1} << 20;
// What a thread keeps between kernels; a larger stack (the logits of a large vocabulary) is returned to the system.
constexpr size_t kKeep = size_t{64} << 20;

struct Block {
  char* data;
  size_t size;
};

// Blocks never move while arrays lie in them: when one is full, a larger one is added behind it.
struct Stack {
  std::vector<Block> blocks;
  size_t block = 0;  // the block in use
  size_t used = 0;   // bytes used in it

  ~Stack() { release(); }

  void release() {
    for (const Block& b : blocks) std::free(b.data);
    blocks.clear();
  }

  void add(size_t size) {
    void* data = std::aligned_alloc(kAlign, size);
    if (data == nullptr) throw std::bad_alloc();
    blocks.push_back({static_cast<char*>(data), size});
  }

  // Called when nothing is in use: one block of the size that was needed instead of several.
  void tidy() {
    if (blocks.size() <= 1 && (blocks.empty() || blocks[0].size <= kKeep)) return;
    size_t total = 0;
    for (const Block& b : blocks) total += b.size;
    release();
    if (total <= kKeep) add(total);
  }
};

thread_local Stack stack;

}  // namespace

Scratch::Scratch() : block_(stack.block), used_(stack.used) {}

Scratch::~Scratch() {
  stack.block = block_;
  stack.used = used_;
  if (block_ == 0 && used_ == 0) stack.tidy();
}

void* Scratch::bytes(size_t count) {
  const size_t size = (count + kAlign - 1) / kAlign * kAlign;
  while (stack.block < stack.blocks.size() && stack.used + size > stack.blocks[stack.block].size) {
    stack.block++;
    stack.used = 0;
  }
  if (stack.block == stack.blocks.size()) {
    const size_t last = stack.blocks.empty() ? kFirstBlock / 2 : stack.blocks.back().size;
    stack.add(size > 2 * last ? size : 2 * last);
  }
  void* result = stack.blocks[stack.block].data + stack.used;
  stack.used += size;
  return result;
}

float* Scratch::floats(int64_t count) { return static_cast<float*>(bytes(static_cast<size_t>(count) * sizeof(float))); }
double* Scratch::doubles(int64_t count) {
  return static_cast<double*>(bytes(static_cast<size_t>(count) * sizeof(double)));
}
int32_t* Scratch::ints(int64_t count) {
  return static_cast<int32_t*>(bytes(static_cast<size_t>(count) * sizeof(int32_t)));
}
Bf16* Scratch::bf16s(int64_t count) { return static_cast<Bf16*>(bytes(static_cast<size_t>(count) * sizeof(Bf16))); }

}  // namespace molt
