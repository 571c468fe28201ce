// Token embedding and its gradient. An id outside the vocabulary gives a row of NaN, which the guard on the loss
// notices; in the gradient it counts for nothing.
#include "parallel.h"

MOLT_SIMD_BEGIN

// {ids[R], weight[V,D]} → [R,D], float32 whatever the weight is stored as: it starts the residual stream
static void embedding(const Call& call) {
  const int32_t* ids = call.in[0].i32();
  float* out = call.out[0].f32();
  const int64_t R = call.in[0].size(), V = call.in[1].dims[0], D = call.in[1].dims[1];
  with_stored(call.in[1], [&](auto* weight) {
    for_row_blocks(*call.pool, R, 0.1 * static_cast<double>(D) + 5, [&](int64_t first, int64_t end) {
      for (int64_t t = first; t < end; t++) {
        if (ids[t] >= 0 && ids[t] < V) {
          for_row(D, [&](auto at) { at.store(out + t * D, at.load(weight + ids[t] * D)); });
        } else {
          for_row(D, [&](auto at) { at.store(out + t * D, splat(__builtin_nanf(""))); });
        }
      }
    });
  });
}

// {ids[R], dy[R,D]} [V] → dweight[V,D]. A task owns a range of the vocabulary and adds the rows of its tokens in the
// order of the tokens.
static void embedding_grad(const Call& call) {
  const int32_t* ids = call.in[0].i32();
  float* dweight = call.out[0].f32();
  const int64_t R = call.in[0].size(), V = call.attr_int(0), D = call.in[1].last();
  constexpr int64_t block = 512;  // words a task owns
  const int64_t blocks = blocks_of(V, block);
  const double nanoseconds = 0.05 * static_cast<double>(block * D) + 0.5 * static_cast<double>(R) +
                             0.2 * static_cast<double>(R * D) / static_cast<double>(blocks);
  with_stored(call.in[1], [&](auto* dy) {
    for_tasks(*call.pool, blocks, nanoseconds, [&](int64_t b) {
      const int64_t first = b * block, end = smaller(V, first + block);
      __builtin_memset(dweight + first * D, 0, (end - first) * D * sizeof(float));
      for (int64_t t = 0; t < R; t++) {
        if (ids[t] < first || ids[t] >= end) continue;
        float* row = dweight + ids[t] * D;
        for_row(D, [&](auto at) { at.store(row, at.load(row) + at.load(dy + t * D)); });
      }
    });
  });
}

MOLT_KERNEL("Embedding", embedding);
MOLT_KERNEL("EmbeddingGrad", embedding_grad);

MOLT_SIMD_END
