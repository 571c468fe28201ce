// tfjs's Softmax and LogSoftmax over the last dimension.
#include "stock_math.h"

#include "parallel.h"

MOLT_SIMD_BEGIN

namespace {

float row_max(const float* row, int64_t n) {
  Vec most = splat(-__builtin_inff());
  for_row(n, [&](auto at) { most = max(at.keep(at.load(row), -__builtin_inff()), most); });
  return max_lane(most);
}

// Σ e^(x − most), the terms written to `terms` when it is given. Stretches of 1024 in float, their sums in double.
double exp_sum(const float* row, float most, int64_t n, float* terms) {
  constexpr int64_t kStretch = 1024;
  double total = 0;
  for (int64_t from = 0; from < n; from += kStretch) {
    Vec sums{};
    for_row(smaller(kStretch, n - from), [&](auto at) {
      const Vec e = exp(at.load(row + from) - most);
      if (terms != nullptr) at.store(terms + from, e);
      sums += at.keep(e, 0.0f);
    });
    total += sum(sums);
  }
  return total;
}

template <class Row>
void for_rows(const Call& call, const Row& body) {
  const int64_t n = call.in[0].last(), rows = call.in[0].size() / n;
  for_row_blocks(*call.pool, rows, 1.5 * static_cast<double>(n), [&](int64_t first, int64_t end) {
    for (int64_t r = first; r < end; r++) body(call.in[0].f32() + r * n, call.out[0].f32() + r * n, n);
  });
}

void softmax(const Call& call) {
  for_rows(call, [](const float* in, float* out, int64_t n) {
    const float scale = static_cast<float>(1.0 / exp_sum(in, row_max(in, n), n, out));
    for_row(n, [&](auto at) { at.store(out, at.load(out) * scale); });
  });
}

void log_softmax(const Call& call) {
  for_rows(call, [](const float* in, float* out, int64_t n) {
    const float most = row_max(in, n);
    const float log_sum = log(splat(static_cast<float>(exp_sum(in, most, n, nullptr))))[0];
    for_row(n, [&](auto at) { at.store(out, (at.load(in) - most) - log_sum); });
  });
}

MOLT_KERNEL("Softmax", softmax);
MOLT_KERNEL("LogSoftmax", log_softmax);

}  // namespace

MOLT_SIMD_END
