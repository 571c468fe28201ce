// The block of a matrix product with the tiles of AMX: 16 rows × 16 columns of float sums, to which one instruction adds
// the products of 32 k. Left tiles are rows of bf16 where they lie, right tiles are 16 steps of a panel's words. Four
// tiles of sums, two of each factor: all eight there are.
#pragma once
#include "gemm_block.h"

#if defined(__AMX_BF16__)

MOLT_SIMD_BEGIN

constexpr int64_t kAmxRows = 16;

// Sets up the tiles of this thread as long as it lives.
struct AmxTiles {
  struct alignas(64) Configuration {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
  };
  AmxTiles() {
    const Configuration configuration;
    _tile_loadconfig(&configuration);
  }
  ~AmxTiles() { _tile_release(); }
};

// C[32, 32] of one pair of left tiles, into sums. `second`: whether rows 16 to 31 exist.
static inline void amx_products(int64_t steps, const Bf16* A, int64_t lda, bool second, const Bf16* B, int64_t ldb,
                                float* sums) {
  const int64_t a_row = lda * static_cast<int64_t>(sizeof(Bf16)), b_row = ldb * static_cast<int64_t>(sizeof(Bf16));
  constexpr int64_t sums_row = 2 * kLanes * sizeof(float);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  for (int64_t step = 0; step < steps; step += Bf16Tiles::kStepsAtOnce) {
    const Bf16 *a = A + 2 * step, *b = B + step * ldb;
    _tile_loadd(4, a, a_row);
    _tile_loadd(6, b, b_row);
    _tile_loadd(7, b + 2 * kLanes, b_row);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    if (!second) continue;
    _tile_loadd(5, a + kAmxRows * lda, a_row);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, sums, sums_row);
  _tile_stored(1, sums + kLanes, sums_row);
  _tile_stored(2, sums + kAmxRows * 2 * kLanes, sums_row);
  _tile_stored(3, sums + kAmxRows * 2 * kLanes + kLanes, sums_row);
}

static void block_of_steps(int64_t rows, int64_t steps, const Left<Bf16Tiles>& left, const Panel<Bf16Tiles>& panel,
                           const Ends& ends) {
  alignas(64) float sums[2 * kAmxRows][2 * kLanes];
  for (int64_t i0 = 0; i0 < rows; i0 += 2 * kAmxRows) {
    amx_products(steps, left.row(i0), left.ld, rows - i0 > kAmxRows, panel.data, panel.ld, sums[0]);
    for (int64_t i = 0; i < smaller(2 * kAmxRows, rows - i0); i++) {
      const Ends there = ends.at(i0 + i, 0);
      Vec row[1][2] = {};
      if (there.start != nullptr) start_from(row, there, panel.columns);
      row[0][0] += load<Vec>(sums[i]);
      row[0][1] += load<Vec>(sums[i] + kLanes);
      finish(row, there, panel.columns);
    }
  }
}

MOLT_SIMD_END

#endif
