// What one core of this machine can do at most, as JSON: multiply-adds of floats and of bf16 between registers, in
// GFLOP/s, and reading memory, in GB/s. products.ts compiles it for the processor at hand and divides by what it prints.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

namespace {

typedef float Vec __attribute__((vector_size(kLanes * 4)));
typedef long long Words __attribute__((vector_size(kLanes * 4)));

// The compiler must have this value in a register here.
template <class V>
__attribute__((always_inline)) inline void keep(V& value) {
#if defined(__AVX512F__)
  asm volatile("" : "+v"(value));
#elif defined(__x86_64__)
  asm volatile("" : "+x"(value));
#else
  asm volatile("" : "+w"(value));
#endif
}

double processor_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The best of many short runs, in units a second.
template <class Body>
double best(double units, Body&& body) {
  double shortest = 1e9;
  for (int run = 0; run < 40; run++) {
    const double begin = processor_seconds();
    body();
    const double seconds = processor_seconds() - begin;
    if (seconds < shortest) shortest = seconds;
  }
  return units / shortest;
}

// Independent chains of additions, enough of them to hide how long one takes.
constexpr int kChains = kLanes == 16 ? 16 : 10;
constexpr int kTurns = 200000;

template <class Add>
double peak(double flop_per_instruction, Add&& add) {
  return best(1e-9 * kTurns * kChains * flop_per_instruction, [&] {
    Vec sums[kChains] = {};
    for (int turn = 0; turn < kTurns; turn++) {
#pragma GCC unroll 16
      for (int chain = 0; chain < kChains; chain++) {
        Vec sum = add(sums[chain]);
        keep(sum);
        sums[chain] = sum;
      }
    }
  });
}

}  // namespace

int main() {
  const Vec a = Vec{} + 1e-9f, b = Vec{} + 1.0f;
  const double floats = peak(2.0 * kLanes, [&](Vec sum) { return sum + a * b; });
  double halves = floats;
#if defined(__AVX512BF16__)
  halves = peak(4.0 * kLanes, [&](Vec sum) { return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b); });
#endif

  constexpr size_t bytes = size_t{64} << 20;
  auto* memory = static_cast<Words*>(std::aligned_alloc(64, bytes));
  std::memset(memory, 1, bytes);
  constexpr size_t count = bytes / sizeof(Words), range = count / 4;
  const double reading = best(1e-9 * bytes, [&] {
    Words sums[4] = {};  // four streams: one alone does not keep the memory busy
    for (size_t i = 0; i < range; i++)
      for (size_t stream = 0; stream < 4; stream++) sums[stream] += memory[stream * range + i];
    Words sum = sums[0] + sums[1] + sums[2] + sums[3];
    keep(sum);
  });
  std::printf("{\"fp32\": %.1f, \"bf16\": %.1f, \"read\": %.1f}\n", floats, halves, reading);
}
