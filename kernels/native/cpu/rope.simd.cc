// Rotary position embedding, half rotation: dimension i of a head turns with dimension i + d/2, by the angle in row
// `position` of the tables. The gradient is the rotation backwards.
#include "parallel.h"
#include "rotate.h"

MOLT_SIMD_BEGIN

// {x[B,T,H,d], position[B,T], cos[M,d/2], sin[M,d/2]} [inverse] → y[B,T,H,d], stored as x is
static void rope(const Call& call) {
  const Tensor& x = call.in[0];
  const Rotation rotation{call.in[1].i32(), call.in[2].f32(), call.in[3].f32()};
  const float direction = call.attr_int(0) != 0 ? -1.0f : 1.0f;
  const int64_t d = x.last(), H = x.last(1), tokens = x.size() / (d * H);
  with_stored(x, [&](auto* from) {
    auto* to = static_cast<decltype(from)>(call.out[0].data);
    for_row_blocks(*call.pool, tokens, 0.25 * static_cast<double>(H * d), [&](int64_t first, int64_t end) {
      for (int64_t i = first * H; i < end * H; i++)
        rotate_token(d, from + i * d, rotation, i / H, direction, 1, to + i * d);
    });
  });
}

MOLT_KERNEL("Rope", rope);

MOLT_SIMD_END
