// The AMX instructions that the addon uses, as functions: put before a source with -include, they let a processor without
// AMX run it. A tile is 16 rows of 64 bytes. The sums of a product are rounded once for each of two neighbours along k,
// as the instruction does.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps

namespace amx_emulation {
namespace {

constexpr int kRows = 16, kRowBytes = 64;

struct Tile {
  unsigned char rows[kRows][kRowBytes];
};

struct Unit {
  bool configured = false;
  Tile tiles[8];

  Tile& tile(int number) {
    if (!configured) std::abort();  // the processor would raise an invalid-instruction fault
    return tiles[number];
  }
};

thread_local Unit unit;

inline float widened(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

// Only the configuration that the addon uses: eight whole tiles.
inline void load_configuration(const void* configuration) {
  const auto* bytes = static_cast<const unsigned char*>(configuration);
  if (bytes[0] != 1 || bytes[1] != 0) std::abort();
  for (int tile = 0; tile < 8; tile++)
    if (bytes[16 + 2 * tile] != kRowBytes || bytes[17 + 2 * tile] != 0 || bytes[48 + tile] != kRows) std::abort();
  unit.configured = true;
}

inline void release() { unit.configured = false; }

inline void zero(int tile) { std::memset(&unit.tile(tile), 0, sizeof(Tile)); }

inline void load(int tile, const void* from, int64_t stride) {
  for (int row = 0; row < kRows; row++)
    std::memcpy(unit.tile(tile).rows[row], static_cast<const char*>(from) + row * stride, kRowBytes);
}

inline void store(int tile, void* to, int64_t stride) {
  for (int row = 0; row < kRows; row++)
    std::memcpy(static_cast<char*>(to) + row * stride, unit.tile(tile).rows[row], kRowBytes);
}

inline void multiply(int sums, int left, int right) {
  for (int row = 0; row < kRows; row++) {
    float sum[16];
    uint16_t a[32];
    std::memcpy(sum, unit.tile(sums).rows[row], kRowBytes);
    std::memcpy(a, unit.tile(left).rows[row], kRowBytes);
    for (int step = 0; step < 16; step++) {
      uint16_t b[32];
      std::memcpy(b, unit.tile(right).rows[step], kRowBytes);
      for (int column = 0; column < 16; column++) {
        sum[column] += widened(a[2 * step]) * widened(b[2 * column]);
        sum[column] += widened(a[2 * step + 1]) * widened(b[2 * column + 1]);
      }
    }
    std::memcpy(unit.tile(sums).rows[row], sum, kRowBytes);
  }
}

}  // namespace
}  // namespace amx_emulation

#define _tile_loadconfig(configuration) amx_emulation::load_configuration(configuration)
#define _tile_release() amx_emulation::release()
#define _tile_zero(tile) amx_emulation::zero(tile)
#define _tile_loadd(tile, from, stride) amx_emulation::load(tile, from, stride)
#define _tile_stored(tile, to, stride) amx_emulation::store(tile, to, stride)
#define _tile_dpbf16ps(sums, left, right) amx_emulation::multiply(sums, left, right)
