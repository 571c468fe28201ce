// The MLP of a Llama block: y = residual + (silu(u · Gᵀ) ∘ (u · Uᵀ)) · Dᵀ, and the gradient of u for fixed weights. A task
// takes a block of tokens through all products (token_panels.h), a strip of the weights at a time; what is I wide exists
// for one block, and in large models for a part of I. The weights are read once for every block.
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

// Blocks and parts are chosen for the second cache: the activations of a block of 64 floats or 128 bf16 take 150 KB in a
// model of 576, those of a part at most kPartBytes. Eight blocks, if there are tokens enough, let threads end together.
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

// Floats of the results of a strip, or of all strips of `features`.
static int64_t results_of(int64_t features, int64_t tokens) {
  return round_up(features, kStripRows) * round_up(tokens, kLanes);
}

// A strip of both projections for a block: its results, and room for copies of weights of another type.
template <class Step>
struct Projections {
  float *gate, *up;
  typename Step::Element* copy;

  static Projections in(Scratch& scratch, int64_t D, int64_t tokens) {
    const int64_t results = results_of(kStripRows, tokens);
    return {scratch.floats(results), scratch.floats(results), elements_of<Step>(scratch, strip_elements<Step>(D))};
  }

  // Intermediate rows [first, first + rows).
  void compute(const Weights& weights, int64_t first, int64_t rows, const TokenPanels<Step>& u) const {
    const int64_t at = first * weights.D, next = at + rows * weights.D;
    const auto gate_strip = strip_of_rows<Step>(weights.gate.from(at), rows, weights.D, copy);
    multiply(gate_strip, rows, u, gate, false, ahead(weights.up.from(at), rows));
    const auto up_strip = strip_of_rows<Step>(weights.up.from(at), rows, weights.D, copy);
    multiply(up_strip, rows, u, up, false,
             ahead(weights.gate.from(next), smaller(kStripRows, weights.I - first - rows)));
  }
};

// Tokens [first, first + tokens). T: how u is stored. gate_kept and up_kept: null unless they are wanted.
template <class Step, class T>
static void forward_block(const Weights& weights, int64_t first, int64_t tokens, const T* u, const float* residual,
                          float* y, T* gate_kept, T* up_kept) {
  const int64_t D = weights.D, I = weights.I, part = rows_of_part<Step>(I, tokens, 1);
  Scratch scratch;
  const auto u_panels = TokenPanels<Step>::in(scratch, D, tokens);
  u_panels.pack(u + first * D, D);
  const auto h = TokenPanels<Step>::in(scratch, part, tokens);
  const auto projections = Projections<Step>::in(scratch, D, tokens);
  auto* copy = elements_of<Step>(scratch, strip_elements<Step>(part));
  float* sums = scratch.floats(results_of(part < I ? D : kStripRows, tokens));

  for (int64_t part_first = 0; part_first < I; part_first += part) {
    const TokenPanels<Step> h_panels{h.data, smaller(part, I - part_first), tokens};
    for (int64_t row = 0; row < h_panels.depth; row += kStripRows) {
      const int64_t rows = smaller(kStripRows, h_panels.depth - row);
      projections.compute(weights, part_first + row, rows, u_panels);
      for_panels(tokens, [&](int64_t token, int64_t width, int64_t count) {
        const float *gate = projections.gate + token * kStripRows, *up = projections.up + token * kStripRows;
        for_row(count, [&](auto at) {
          const auto activate = [&](int64_t i) {
            const Vec g = load(gate + i * width + at.at), v = load(up + i * width + at.at);
            if (gate_kept != nullptr) {
              const int64_t kept = first * I + (part_first + row + i) * tokens + token;
              at.store(gate_kept + kept, g);
              at.store(up_kept + kept, v);
            }
            return g * sigmoid(g) * v;
          };
          for (int64_t i = 0; i < rows; i += Step::kPerWord) {
            const bool pair = Step::kPerWord == 2 && i + 1 < rows;
            const Vec one = activate(i), other = pair ? activate(i + 1) : Vec{};
            store_features(h_panels, row + i, token + at.at, one, other);
          }
        });
      });
    }
    for (int64_t feature = 0; feature < D; feature += kStripRows) {
      const int64_t rows = smaller(kStripRows, D - feature);
      float* results = sums + (part < I ? results_of(feature, tokens) : 0);
      const auto down = strip_of_rows<Step>(weights.down.from(feature * I + part_first), rows, h_panels.depth, copy);
      const Factor next = weights.down.from((feature + rows) * I + part_first);
      multiply(down, rows, h_panels, results, part_first > 0, ahead(next, smaller(kStripRows, D - feature - rows)));
      if (part_first + part < I) continue;
      each_token(rows, tokens, results, [&](int64_t token, const float* values) {
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

// Rows [first, first + depth) of I as left factors of the gradient's products, copied once for all blocks of tokens.
template <class Step>
struct Slice {
  int64_t first, depth;
  ColumnStrips<Step> down;      // k along D, for dh
  ColumnStrips<Step> gate, up;  // k along I, for du
};

constexpr int64_t kRowsPerCopy = 32;

template <class Step>
static void copy_part(Pool& pool, const Weights& weights, const Slice<Step>& part) {
  const int64_t of_down = blocks_of(weights.D, kRowsPerCopy), of_gate = blocks_of(part.depth, kRowsPerCopy);
  const double nanoseconds = 0.2 * static_cast<double>(kRowsPerCopy * larger(weights.D, part.depth));
  for_tasks(pool, of_down + 2 * of_gate, nanoseconds, [&](int64_t task) {
    const auto copy = [&](const ColumnStrips<Step>& strips, const Factor& from, int64_t index) {
      strips.copy(from, index * kRowsPerCopy, smaller(strips.depth, (index + 1) * kRowsPerCopy));
    };
    if (task < of_down) return copy(part.down, weights.down.from(part.first), task);
    const bool is_gate = task < of_down + of_gate;
    const Factor& from = is_gate ? weights.gate : weights.up;
    copy(is_gate ? part.gate : part.up, from.from(part.first * weights.D), (task - of_down) % of_gate);
  });
}

// The share of one part of I in du of tokens [first, first + tokens): added to `sums`, written to du with the last part.
template <class Step, class T>
static void gradient_block(const Weights& weights, const Slice<Step>& part, int64_t first, int64_t tokens,
                           const float* dy, const Forward<T>& forward, float* sums, T* du) {
  const int64_t D = weights.D, I = weights.I, results = results_of(kStripRows, tokens);
  Scratch scratch;
  const auto dy_panels = TokenPanels<Step>::in(scratch, D, tokens);
  dy_panels.pack(dy + first * D, D);
  TokenPanels<Step> u_panels;
  if (forward.u != nullptr) {
    u_panels = TokenPanels<Step>::in(scratch, D, tokens);
    u_panels.pack(forward.u + first * D, D);
  }
  const auto dgate = TokenPanels<Step>::in(scratch, part.depth, tokens);
  const auto dup = TokenPanels<Step>::in(scratch, part.depth, tokens);
  const auto projections = Projections<Step>::in(scratch, D, tokens);
  float* dh = scratch.floats(results);

  for (int64_t row = 0; row < part.depth; row += kStripRows) {
    const int64_t rows = smaller(kStripRows, part.depth - row);
    if (forward.u == nullptr) {
      const int64_t kept = first * I + (part.first + row) * tokens, bytes = rows * tokens * static_cast<int64_t>(sizeof(T));
      const T* const both[] = {forward.gate, forward.up};
      for (const T* from : both) Ahead{reinterpret_cast<const char*>(from + kept), bytes}.fetch(bytes);
    }
    multiply(part.down.strip(row), rows, dy_panels, dh, false, part.down.ahead(row + rows));
    if (forward.u != nullptr) projections.compute(weights, part.first + row, rows, u_panels);
    for_panels(tokens, [&](int64_t token, int64_t width, int64_t count) {
      for_row(count, [&](auto at) {
        Vec dg[2] = {}, dv[2] = {};
        const auto differentiate = [&](int64_t i, int n) {
          const int64_t result = token * kStripRows + i * width + at.at;
          const int64_t kept = first * I + (part.first + row + i) * tokens + token;
          const Vec g = forward.u != nullptr ? load(projections.gate + result) : at.load(forward.gate + kept);
          const Vec v = forward.u != nullptr ? load(projections.up + result) : at.load(forward.up + kept);
          const Vec d = load(dh + result), s = sigmoid(g);
          dg[n] = d * v * s * (1.0f + g * (1.0f - s));
          dv[n] = d * g * s;
        };
        for (int64_t i = 0; i < rows; i += Step::kPerWord) {
          differentiate(i, 0);
          if (Step::kPerWord == 2 && i + 1 < rows) {
            differentiate(i + 1, 1);
          } else {
            dg[1] = dv[1] = Vec{};
          }
          store_features(dgate, row + i, token + at.at, dg[0], dg[1]);
          store_features(dup, row + i, token + at.at, dv[0], dv[1]);
        }
      });
    });
  }
  const bool only = part.depth == I;
  float* strip_sums = only ? scratch.floats(results) : nullptr;
  for (int64_t feature = 0; feature < D; feature += kStripRows) {
    const int64_t rows = smaller(kStripRows, D - feature);
    float* to = only ? strip_sums : sums + results_of(feature, tokens);
    multiply(part.gate.strip(feature), rows, dgate, to, part.first > 0, part.up.ahead(feature));
    multiply(part.up.strip(feature), rows, dup, to, true, part.gate.ahead(feature + rows));
    if (part.first + part.depth < I) continue;
    each_token(rows, tokens, to, [&](int64_t token, const float* values) {
      T* row = du + (first + token) * D + feature;
      for_row(rows, [&](auto at) { at.store(row, at.load(values)); });
    });
  }
}

// A few tokens, as in decoding, would fill vectors of tokens badly: matrix products that are spread over the rows of the
// weights.
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

// Nanoseconds that one block of tokens takes, for the pool.
static double block_cost(const Weights& weights, int64_t tokens) {
  return 6.0 * static_cast<double>(tokens * weights.D * weights.I) / kFlopPerNanosecond;
}

template <class T>
static void forward(const Call& call, const Weights& weights, int64_t R, const T* u) {
  const bool keep = call.outputs > 1;
  T *gate = keep ? call.out[1].as<T>() : nullptr, *up = keep ? call.out[2].as<T>() : nullptr;
  with_step_of(call.in, 4, [&](auto step) {
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
  const int64_t D = weights.D, I = weights.I, R = du.size() / D;
  with_step_of(call.in, call.inputs, [&](auto step) {
    using Step = decltype(step);
    const int64_t block = tokens_of_block<Step>(R), blocks = blocks_of(R, block);
    const int64_t most = rows_of_part<Step>(I, block, 2), sums_of_block = results_of(D, block);
    Scratch scratch;
    const auto down = ColumnStrips<Step>::in(scratch, D, most);
    const auto gate = ColumnStrips<Step>::in(scratch, most, D), up = ColumnStrips<Step>::in(scratch, most, D);
    float* sums = most < I ? scratch.floats(blocks * sums_of_block) : nullptr;
    for (int64_t part_first = 0; part_first < I; part_first += most) {
      const int64_t depth = smaller(most, I - part_first);
      const Slice<Step> part{part_first, depth, {down.data, D, depth}, {gate.data, depth, D}, {up.data, depth, D}};
      copy_part(*call.pool, weights, part);
      for_tasks(*call.pool, blocks, block_cost(weights, block), [&](int64_t task) {
        const int64_t first = task * block;
        gradient_block(weights, part, first, smaller(block, R - first), call.in[0].f32(), forward,
                       sums + task * sums_of_block, du.as<T>());
      });
    }
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
