// The MLP of a Llama block: y = residual + (silu(u · Gᵀ) ∘ (u · Uᵀ)) · Dᵀ, and the gradient of u for fixed weights. A task
// takes a block of tokens through all products (token_panels.h), a few rows of the weights at a time; what is I wide
// exists for one block, and only a part of I at a time in large models. The weights are read once for every block.
//
// Gate and up are kept for the gradient as [I, tokens] a block, the blocks end to end, stored as u is: nothing but the
// gradient's kernel, which has the same blocks, can read them.
//
// levels: avx512bf16
//
// Legend: R tokens, D hidden size, I intermediate size.
#include "token_panels.h"

MOLT_SIMD_BEGIN

struct Weights {
  Factor gate, up;  // [I, D]
  Factor down;      // [D, I]
  int64_t D, I;
};

static Weights weights_of(const Tensor* tensors) {
  const int64_t I = tensors[0].dims[0], D = tensors[0].dims[1];
  return {factor(tensors[0], D), factor(tensors[1], D), factor(tensors[2], I), D, I};
}

// A block and the part of I that exists at a time are chosen for the second level of cache: activations of 64 floats or
// 128 bf16 of a model of 576 take 150 KB, those of the part at most kPartBytes. Eight blocks at least, if there are
// tokens enough, so that threads end together.
template <class Step>
static int64_t tokens_of_block(int64_t R) {
  const int64_t most = Step::kPerWord == 2 ? 128 : 64;
  return larger(32, smaller(most, R / 8 / 32 * 32));
}

constexpr int64_t kPartBytes = 400 * 1024;

// Intermediate rows of one part, `arrays` of which exist at a time: whole strips, parts of about equal size.
template <class Step>
static int64_t rows_of_part(int64_t I, int64_t tokens, int64_t arrays) {
  const int64_t bytes = tokens * arrays * static_cast<int64_t>(sizeof(typename Step::Element));
  const int64_t most = larger(kStripRows, kPartBytes / bytes / kStripRows * kStripRows);
  return round_up(blocks_of(I, blocks_of(I, most)), kStripRows);
}

// Copies [features, tokens] into rows of tokens: write(token, features) is given kStripRows of them or fewer.
template <class Write>
static void each_token(int64_t features, int64_t tokens, const float* from, int64_t ld, Write&& write) {
  alignas(64) float rows[16 * kStripRows];
  for (int64_t first = 0; first < tokens; first += 16) {
    const int64_t count = smaller(16, tokens - first);
    transpose(features, count, from + first, ld, rows, kStripRows);
    for (int64_t i = 0; i < count; i++) write(first + i, rows + i * kStripRows);
  }
}

// gate[rows, ld] and up for intermediate rows [first, first + rows).
template <class Step>
static void gate_and_up(const Weights& weights, int64_t first, int64_t rows, const TokenPanels<Step>& u,
                        typename Step::Element* copy, float* gate, float* up, int64_t ld) {
  multiply(strip<Step>(weights.gate.from(first * weights.D), rows, weights.D, copy), rows, u, gate, ld);
  multiply(strip<Step>(weights.up.from(first * weights.D), rows, weights.D, copy), rows, u, up, ld);
}

// Tokens [first, first + tokens). T: how u is stored. gate_kept and up_kept: null unless they are wanted.
template <class Step, class T>
static void forward_block(const Weights& weights, int64_t first, int64_t tokens, const T* u, const float* residual,
                          float* y, T* gate_kept, T* up_kept) {
  const int64_t D = weights.D, I = weights.I, part = rows_of_part<Step>(I, tokens, 1);
  Scratch scratch;
  const auto u_panels = TokenPanels<Step>::in(scratch, D, tokens);
  u_panels.pack(u + first * D, D);
  const int64_t ld = u_panels.padded();
  auto* h = elements_of<Step>(scratch, round_up(part, Step::kPerWord) * ld);
  auto* copy = elements_of<Step>(scratch, strip_elements<Step>(larger(D, part)));
  float *gate = scratch.floats(kStripRows * ld), *up = scratch.floats(kStripRows * ld);
  float* sums = scratch.floats((part < I ? round_up(D, kStripRows) : kStripRows) * ld);

  for (int64_t part_first = 0; part_first < I; part_first += part) {
    const TokenPanels<Step> h_panels{h, smaller(part, I - part_first), tokens};
    for (int64_t row = 0; row < h_panels.depth; row += kStripRows) {
      const int64_t rows = smaller(kStripRows, h_panels.depth - row);
      gate_and_up(weights, part_first + row, rows, u_panels, copy, gate, up, ld);
      for (int64_t i = 0; i < rows; i += Step::kPerWord) {
        const auto activate = [&](auto at, int64_t i) {
          const Vec g = at.load(gate + i * ld), v = at.load(up + i * ld);
          if (gate_kept != nullptr) {
            const int64_t kept = first * I + (part_first + row + i) * tokens;
            at.store(gate_kept + kept, g);
            at.store(up_kept + kept, v);
          }
          return g * sigmoid(g) * v;
        };
        for_row(tokens, [&](auto at) {
          const Vec one = activate(at, i);
          const Vec other = Step::kPerWord == 2 && i + 1 < rows ? activate(at, i + 1) : Vec{};
          store_features(h_panels, row + i, at.at, one, other);
        });
      }
    }
    for (int64_t feature = 0; feature < D; feature += kStripRows) {
      const int64_t rows = smaller(kStripRows, D - feature);
      float* out = sums + (part < I ? feature * ld : 0);
      const auto down = strip<Step>(weights.down.from(feature * I + part_first), rows, h_panels.depth, copy);
      multiply(down, rows, h_panels, out, ld, part_first > 0);
      if (part_first + part < I) continue;
      each_token(rows, tokens, out, ld, [&](int64_t token, const float* values) {
        const int64_t at_feature = (first + token) * D + feature;
        for_row(rows, [&](auto at) {
          at.store(y + at_feature, at.load(residual + at_feature) + at.load(values));
        });
      });
    }
  }
}

// What the gradient has of the forward pass: u, or gate and up.
template <class T>
struct Forward {
  const T *u, *gate, *up;
};

template <class Step, class T>
static void gradient_block(const Weights& weights, int64_t first, int64_t tokens, const float* dy,
                           const Forward<T>& forward, T* du) {
  const int64_t D = weights.D, I = weights.I, part = rows_of_part<Step>(I, tokens, 2);
  Scratch scratch;
  const auto dy_panels = TokenPanels<Step>::in(scratch, D, tokens);
  dy_panels.pack(dy + first * D, D);
  TokenPanels<Step> u_panels;
  if (forward.u != nullptr) {
    u_panels = TokenPanels<Step>::in(scratch, D, tokens);
    u_panels.pack(forward.u + first * D, D);
  }
  const int64_t ld = dy_panels.padded();
  auto* dgate = elements_of<Step>(scratch, round_up(part, Step::kPerWord) * ld);
  auto* dup = elements_of<Step>(scratch, round_up(part, Step::kPerWord) * ld);
  auto* copy = elements_of<Step>(scratch, strip_elements<Step>(larger(D, part)));
  float *gate = scratch.floats(kStripRows * ld), *up = scratch.floats(kStripRows * ld);
  float* dh = scratch.floats(kStripRows * ld);
  float* sums = scratch.floats((part < I ? round_up(D, kStripRows) : kStripRows) * ld);

  for (int64_t part_first = 0; part_first < I; part_first += part) {
    const int64_t depth = smaller(part, I - part_first);
    const TokenPanels<Step> dgate_panels{dgate, depth, tokens}, dup_panels{dup, depth, tokens};
    for (int64_t row = 0; row < depth; row += kStripRows) {
      const int64_t rows = smaller(kStripRows, depth - row), at_row = part_first + row;
      multiply(strip<Step>(transposed(weights.down.from(at_row)), rows, D, copy), rows, dy_panels, dh, ld);
      if (forward.u != nullptr) gate_and_up(weights, at_row, rows, u_panels, copy, gate, up, ld);
      for (int64_t i = 0; i < rows; i += Step::kPerWord) {
        Vec dg[2] = {}, dv[2] = {};
        const auto differentiate = [&](auto at, int64_t i, int n) {
          const int64_t kept = first * I + (at_row + i) * tokens;
          const Vec g = forward.u == nullptr ? at.load(forward.gate + kept) : at.load(gate + i * ld);
          const Vec v = forward.u == nullptr ? at.load(forward.up + kept) : at.load(up + i * ld);
          const Vec d = at.load(dh + i * ld), s = sigmoid(g);
          dg[n] = d * v * s * (1.0f + g * (1.0f - s));
          dv[n] = d * g * s;
        };
        for_row(tokens, [&](auto at) {
          differentiate(at, i, 0);
          if (Step::kPerWord == 2 && i + 1 < rows) differentiate(at, i + 1, 1);
          store_features(dgate_panels, row + i, at.at, dg[0], dg[1]);
          store_features(dup_panels, row + i, at.at, dv[0], dv[1]);
        });
      }
    }
    for (int64_t feature = 0; feature < D; feature += kStripRows) {
      const int64_t rows = smaller(kStripRows, D - feature), corner = part_first * D + feature;
      float* out = sums + (part < I ? feature * ld : 0);
      const auto gate_strip = strip<Step>(transposed(weights.gate.from(corner)), rows, depth, copy);
      multiply(gate_strip, rows, dgate_panels, out, ld, part_first > 0);
      const auto up_strip = strip<Step>(transposed(weights.up.from(corner)), rows, depth, copy);
      multiply(up_strip, rows, dup_panels, out, ld, true);
      if (part_first + part < I) continue;
      each_token(rows, tokens, out, ld, [&](int64_t token, const float* values) {
        T* row = du + (first + token) * D + feature;
        for_row(rows, [&](auto at) { at.store(row, at.load(values)); });
      });
    }
  }
}

// Calls body(Step) with the kind of product: of bf16 if anything that enters it is stored so.
template <class Body>
static void with_step(const Weights& weights, DType activations, Body&& body) {
  const auto is_bf16 = [](DType dtype) { return dtype == DType::bf16; };
  if (!is_bf16(activations) && !is_bf16(weights.gate.dtype) && !is_bf16(weights.up.dtype) &&
      !is_bf16(weights.down.dtype))
    return body(Floats{});
#if defined(__AVX512BF16__)
  body(Bf16Pairs{});
#else
  body(RoundedFloats{});
#endif
}

// A few tokens, as in decoding, would fill a vector of tokens badly: matrix products that share their work by rows of
// the weights.
constexpr int64_t kFewTokens = 32;

static void few_tokens(const Call& call, const Weights& weights, int64_t R) {
  const int64_t D = weights.D, I = weights.I;
  Scratch scratch;
  float *gate = scratch.floats(R * I), *up = scratch.floats(R * I);
  const Factor u = factor(call.in[0], D);
  gemm(*call.pool, {.M = R, .N = I, .K = D, .a = u, .b = transposed(weights.gate), .c = result(gate, I)});
  gemm(*call.pool, {.M = R, .N = I, .K = D, .a = u, .b = transposed(weights.up), .c = result(up, I)});
  for_elements(*call.pool, R * I, 0.15, [&](int64_t first, int64_t end) {
    for_row(end - first, [&](auto at) {
      const Vec g = at.load(gate + first);
      at.store(gate + first, g * sigmoid(g) * at.load(up + first));
    });
  });
  gemm(*call.pool, {.M = R,
                    .N = D,
                    .K = I,
                    .a = factor(gate, I),
                    .b = transposed(weights.down),
                    .c = result(call.out[0], D),
                    .add = call.in[4].f32(),
                    .ld_add = D});
}

// Nanoseconds of one block, for the pool.
static double block_cost(const Weights& weights, int64_t tokens) {
  return 6.0 * static_cast<double>(tokens * weights.D * weights.I) / kFlopPerNanosecond;
}

template <class T>
static void forward(const Call& call, const Weights& weights, int64_t R, const T* u) {
  const bool keep = call.outputs > 1;
  T *gate = keep ? call.out[1].as<T>() : nullptr, *up = keep ? call.out[2].as<T>() : nullptr;
  with_step(weights, call.in[0].dtype, [&](auto step) {
    using Step = decltype(step);
    const int64_t block = tokens_of_block<Step>(R);
    for_tasks(*call.pool, blocks_of(R, block), block_cost(weights, block), [&](int64_t task) {
      const int64_t first = task * block;
      forward_block<Step>(weights, first, smaller(block, R - first), u, call.in[4].f32(), call.out[0].f32(), gate, up);
    });
  });
}

// {u[R,D], gate[I,D], up[I,D], down[D,I], residual[R,D]} → [y[R,D]] or, for a gradient, [y, gate, up]
static void gated_mlp(const Call& call) {
  const Weights weights = weights_of(call.in + 1);
  const int64_t R = call.in[0].size() / weights.D;
  if (R <= kFewTokens && call.outputs == 1) return few_tokens(call, weights, R);
  with_stored(call.in[0], [&](auto* u) { forward(call, weights, R, u); });
}

template <class T>
static void gradient(const Call& call, const Weights& weights, const Forward<T>& forward) {
  const Tensor& du = call.out[0];
  const int64_t R = du.size() / weights.D;
  with_step(weights, du.dtype, [&](auto step) {
    using Step = decltype(step);
    const int64_t block = tokens_of_block<Step>(R);
    for_tasks(*call.pool, blocks_of(R, block), block_cost(weights, block), [&](int64_t task) {
      const int64_t first = task * block;
      gradient_block<Step>(weights, first, smaller(block, R - first), call.in[0].f32(), forward, du.as<T>());
    });
  });
}

// {dy[R,D], gate[R,I], up[R,I], gate weight, up weight, down weight} → du[R,D]
static void gated_mlp_grad(const Call& call) {
  const Tensor &gate = call.in[1], &up = call.in[2];
  const Weights weights = weights_of(call.in + 3);
  if (gate.is_bf16()) return gradient<Bf16>(call, weights, {nullptr, gate.bf16(), up.bf16()});
  gradient<float>(call, weights, {nullptr, gate.f32(), up.f32()});
}

// {dy[R,D], u[R,D], gate weight, up weight, down weight} → du[R,D]
static void gated_mlp_recomputed_grad(const Call& call) {
  const Tensor& u = call.in[1];
  const Weights weights = weights_of(call.in + 2);
  if (u.is_bf16()) return gradient<Bf16>(call, weights, {u.bf16(), nullptr, nullptr});
  gradient<float>(call, weights, {u.f32(), nullptr, nullptr});
}

MOLT_KERNEL("GatedMlp", gated_mlp);
MOLT_KERNEL("GatedMlpGrad", gated_mlp_grad);
MOLT_KERNEL("GatedMlpRecomputedGrad", gated_mlp_recomputed_grad);

MOLT_SIMD_END
