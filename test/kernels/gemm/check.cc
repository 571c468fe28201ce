// Compares gemm.h with sums in double over every form of a product: both factors as stored and transposed, float32 and
// bf16 in and out, accumulation, a residual, padded rows, sizes around every block. Also: the same bits with one, two and
// three threads and on the calling thread alone, and nothing written outside C. native-gemm.test.ts links it with the
// addon's objects and runs it once for every instruction set.
//
// Prints the instruction set, the number of products and the largest relative errors; exit status 1 after the first
// broken promise, which it names.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "core/isa.h"
#include "cpu/gemm.h"

using namespace molt;

namespace {

uint32_t seed = 1;
float random_value() {
  seed = seed * 1664525u + 1013904223u;
  return static_cast<float>(static_cast<int32_t>(seed)) / 2147483648.0f;
}

Bf16 rounded(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}

float widened(Bf16 value) {
  const uint32_t bits = static_cast<uint32_t>(value.bits) << 16;
  float result;
  std::memcpy(&result, &bits, sizeof result);
  return result;
}

// A stored matrix with `padding` elements behind every row, in either type.
struct Matrix {
  int64_t rows, columns, ld;
  DType dtype;
  std::vector<float> floats;
  std::vector<Bf16> halves;

  Matrix(int64_t r, int64_t c, DType type, int64_t padding) : rows(r), columns(c), ld(c + padding), dtype(type) {
    if (type == DType::f32) floats.resize(r * ld);
    if (type == DType::bf16) halves.resize(r * ld);
    for (int64_t i = 0; i < r * ld; i++) set(i, random_value());
  }
  void set(int64_t i, float value) {
    if (dtype == DType::f32) floats[i] = value;
    if (dtype == DType::bf16) halves[i] = rounded(value);
  }
  float at(int64_t i, int64_t j) const { return dtype == DType::f32 ? floats[i * ld + j] : widened(halves[i * ld + j]); }
  const void* data() const { return dtype == DType::f32 ? static_cast<const void*>(floats.data()) : halves.data(); }
  void* data() { return dtype == DType::f32 ? static_cast<void*>(floats.data()) : halves.data(); }
  size_t bytes() const { return floats.size() * sizeof(float) + halves.size() * sizeof(Bf16); }
};

struct Form {
  int64_t M, N, K;
  bool transpose_a, transpose_b;
  DType a, b, c;
  bool accumulate, add;
};

[[noreturn]] void fail(const Form& f, const char* what) {
  const auto name = [](DType type) { return type == DType::bf16 ? "bf16" : "f32"; };
  std::printf("%s: %lldx%lldx%lld %s%s %s·%s→%s%s%s\n", what, static_cast<long long>(f.M), static_cast<long long>(f.N),
              static_cast<long long>(f.K), f.transpose_a ? "T" : "N", f.transpose_b ? "T" : "N", name(f.a), name(f.b),
              name(f.c), f.accumulate ? ", accumulated" : "", f.add ? ", added" : "");
  std::exit(1);
}

double worst[2] = {0, 0};  // float32 results, bf16 results
int products = 0;
Pool one(1), two(2), three(3);

void check(const Form& f) {
  const Matrix a(f.transpose_a ? f.K : f.M, f.transpose_a ? f.M : f.K, f.a, products % 3);
  const Matrix b(f.transpose_b ? f.N : f.K, f.transpose_b ? f.K : f.N, f.b, products % 5);
  const Matrix before(f.M, f.N, f.c, products % 4), residual(f.M, f.N, DType::f32, products % 2);
  products++;

  const auto multiplied = [&](auto&& run) {
    Matrix c = before;
    run(Product{.M = f.M, .N = f.N, .K = f.K, .a = {a.data(), f.a, a.ld, f.transpose_a},
                .b = {b.data(), f.b, b.ld, f.transpose_b}, .c = {c.data(), f.c, c.ld}, .accumulate = f.accumulate,
                .add = f.add ? residual.floats.data() : nullptr, .ld_add = residual.ld});
    return c;
  };
  const Matrix c = multiplied([](const Product& p) { gemm(one, p); });
  const auto same = [&](const Matrix& other) { return std::memcmp(c.data(), other.data(), c.bytes()) == 0; };
  if (!same(multiplied([](const Product& p) { gemm(two, p); }))) fail(f, "two threads differ");
  if (!same(multiplied([](const Product& p) { gemm(three, p); }))) fail(f, "three threads differ");
  if (!same(multiplied([](const Product& p) { gemm_here(p); }))) fail(f, "gemm_here differs");

  const bool rounds = f.a == DType::bf16 || f.b == DType::bf16;
  const auto entering = [&](float value) { return rounds ? widened(rounded(value)) : value; };
  double error = 0, size = 0;
  for (int64_t i = 0; i < f.M; i++) {
    for (int64_t j = 0; j < c.ld; j++) {
      if (j >= f.N) {
        if (c.at(i, j) != before.at(i, j)) fail(f, "wrote behind a row");
        continue;
      }
      double expected = 0;
      const auto term = [&](double value) {
        expected += value;
        size += value * value;  // of the terms: sums of few may cancel
      };
      if (f.accumulate) term(before.at(i, j));
      if (f.add) term(residual.at(i, j));
      for (int64_t k = 0; k < f.K; k++)
        term(static_cast<double>(entering(f.transpose_a ? a.at(k, i) : a.at(i, k))) *
             entering(f.transpose_b ? b.at(j, k) : b.at(k, j)));
      error += (c.at(i, j) - expected) * (c.at(i, j) - expected);
    }
  }
  const double relative = size == 0 ? error : std::sqrt(error / size);
  const bool halves = f.c == DType::bf16;
  if (!(relative < (halves ? 8e-3 : 2e-6))) fail(f, "wrong");
  if (relative > worst[halves]) worst[halves] = relative;
}

}  // namespace

int main() {
  const int64_t sizes[][3] = {{1, 1, 1},    {1, 5, 3},     {2, 33, 17},   {3, 64, 31},    {4, 16, 2},    {5, 9, 40},
                              {7, 31, 15},  {8, 32, 16},   {9, 33, 33},   {12, 47, 64},   {16, 8, 65},   {31, 65, 96},
                              {33, 17, 1},  {64, 64, 64},  {65, 100, 127}, {63, 257, 32}, {129, 32, 385}, {70, 544, 50},
                              {20, 40, 777}, {17, 530, 1030}, {10, 24, 2100}, {6, 3, 0},    {1, 3000, 40}, {6, 301, 70}};
  const DType types[] = {DType::f32, DType::bf16};
  for (const auto& [M, N, K] : sizes)
    for (const bool transpose_a : {false, true})
      for (const bool transpose_b : {false, true})
        for (const DType a : types)
          for (const DType b : types)
            for (const DType c : types)
              for (int extra = 0; extra < 4; extra += M * N * K < 100000 ? 1 : 3)
                check({M, N, K, transpose_a, transpose_b, a, b, c, (extra & 1) != 0, (extra & 2) != 0});
  // more rows than are copied at a time
  for (const bool transpose_a : {false, true})
    for (const DType a : types) check({1100, 40, 24, transpose_a, true, a, DType::bf16, DType::f32, false, true});
  std::printf("%s %d %.1e %.1e\n", isa_name(active_isa()), products, worst[0], worst[1]);
}
