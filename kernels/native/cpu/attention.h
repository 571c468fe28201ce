// What the forward and the backward of attention share: sizes, which keys a query sees, where the heads lie, and copies
// of them in the form that matrix products read (gemm_pack.h). Query t sits at key S − T + t and sees the keys from
// start[t] up to itself, at most `window` of them. Head h uses key-value head h / (H / G).
//
// Scores are in units of log 2, because 2^x is cheaper than e^x: queries are multiplied by scale · log2 e when they are
// copied. So is the saved log-sum-exp.
//
// `Step` is the arithmetic of the products (tile.h): float32, or pairs of bf16 with float32 sums where q, k and v are
// stored as bf16 and the processor multiplies them. Everything between the products is float32 either way.
#pragma once
#include "gemm_pack.h"
#include "parallel.h"
#include "rotate.h"

MOLT_SIMD_BEGIN

constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;

struct Attention {
  int64_t B, T, S, H, G, d;
  float scale;
  int64_t window;
  const int32_t* start;
  Rotation rotation;  // of queries and keys, when S = T

  // The keys that query t of row b sees: [first, end).
  int64_t first_key(int64_t b, int64_t t) const {
    const int64_t first = larger(0, start[b * T + t]);
    return window > 0 ? larger(first, end_key(t) - window) : first;
  }
  int64_t end_key(int64_t t) const { return S - T + t + 1; }
  // The first key that any, and the first that all of some queries see.
  int64_t first_key_of_any(int64_t b, int64_t t, int64_t queries) const {
    int64_t first = S;
    for (int64_t i = t; i < t + queries; i++) first = smaller(first, first_key(b, i));
    return first;
  }
  int64_t first_key_of_all(int64_t b, int64_t t, int64_t queries) const {
    int64_t first = 0;
    for (int64_t i = t; i < t + queries; i++) first = larger(first, first_key(b, i));
    return first;
  }
  int64_t group_of(int64_t h) const { return h / (H / G); }
  float query_scale() const { return scale * kLog2E; }
};

// Heads of a tensor: those of one token lie behind each other, tokens `ld` elements apart, batch rows `length` tokens.
struct Heads {
  char* data;
  DType dtype;
  int64_t length, ld, d;

  void* at(int64_t b, int64_t head, int64_t t) const {
    return data + ((b * length + t) * ld + head * d) * dtype_bytes(dtype);
  }
  // Calls body(pointer to the token's head) with the type that the tensor is stored in.
  template <class Body>
  void with(int64_t b, int64_t head, int64_t t, Body&& body) const {
    if (dtype == DType::bf16) return body(static_cast<Bf16*>(at(b, head, t)));
    body(static_cast<float*>(at(b, head, t)));
  }
};

// Of a [B,length,heads,d] tensor.
static inline Heads heads_of(const Tensor& x) {
  return {static_cast<char*>(x.data), x.dtype, x.dims[1], x.dims[2] * x.dims[3], x.dims[3]};
}

// Of a [B,length,columns] tensor, the heads that begin with column `first`.
static inline Heads heads_from(const Tensor& x, int64_t first, int64_t d) {
  return {static_cast<char*>(x.data) + first * dtype_bytes(x.dtype), x.dtype, x.dims[1], x.dims[2], d};
}

// Of tensors q[B,T,H,d] and k[B,S,G,d] that have been turned before. Attributes: scale, window.
static inline Attention attention_of(const Call& call, const Tensor& q, const Tensor& k, const Tensor& start) {
  return {.B = q.dims[0], .T = q.dims[1], .S = k.dims[1], .H = q.dims[2], .G = k.dims[2], .d = q.last(),
          .scale = call.attr_f32(0), .window = call.attr_int(1), .start = start.i32(), .rotation = {}};
}

// The joined projection of self-attention, [B,T,q|k|v]: sizes and where the heads lie. `attributes`: heads, kvHeads,
// headDim, scale, window; `tables`: position[B,T], cos[M,d/2], sin[M,d/2], start[B,T], in this order.
struct JoinedAttention {
  Attention sizes;
  Heads q, k, v;
};

static inline JoinedAttention joined_attention(const Call& call, const Tensor& qkv, const Tensor* tables) {
  const int64_t H = call.attr_int(0), G = call.attr_int(1), d = call.attr_int(2);
  const Attention sizes{
      .B = qkv.dims[0], .T = qkv.dims[1], .S = qkv.dims[1], .H = H, .G = G, .d = d,
      .scale = call.attr_f32(3), .window = call.attr_int(4), .start = tables[3].i32(),
      .rotation = {tables[0].i32(), tables[1].f32(), tables[2].f32()}};
  return {sizes, heads_from(qkv, 0, d), heads_from(qkv, H * d, d), heads_from(qkv, (H + G) * d, d)};
}

// Which arithmetic the products use, as body(Step).
template <class Body>
static inline void with_step(DType stored, Body&& body) {
#if defined(__AVX512BF16__)
  if (stored == DType::bf16) return body(Bf16Pairs{});
#endif
  (void)stored;
  body(Floats{});
}

template <class Step>
static inline typename Step::Element* elements(Scratch& scratch, int64_t count) {
  if constexpr (Step::kPerWord == 1) return scratch.floats(count);
  else return scratch.bf16s(count);
}

// Vectors of neighbours along k as one vector of words.
template <class Step>
MOLT_INLINE Vec join(const Vec (&neighbours)[Step::kPerWord]) {
  if constexpr (Step::kPerWord == 1) return neighbours[0];
#if defined(__AVX512BF16__)
  if constexpr (Step::kPerWord == 2) {
    // both in one register, the first one below; then lane by lane
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)neighbours[1], (__m512)neighbours[0]);
    alignas(64) static constexpr struct Interleaved {
      uint16_t lane[32];
      constexpr Interleaved() : lane() {
        for (int i = 0; i < 32; i++) lane[i] = static_cast<uint16_t>(i / 2 + i % 2 * 16);
      }
    } interleaved;
    return (Vec)_mm512_permutexvar_epi16(_mm512_load_si512(interleaved.lane), both);
  }
#endif
}

// Heads are copied so many tokens at a time: even, for pairs.
constexpr int64_t kStrip = 64;

// Bytes of a cache line; how many tokens ahead heads are fetched.
constexpr int64_t kLine = 64, kAhead = 8;

// Tokens [t, t + tokens) of one head as floats: to[tokens, ld], scaled, turned to their positions if `rotation` is given.
static inline void load_head(const Heads& from, int64_t b, int64_t head, int64_t t, int64_t tokens,
                             const Rotation& rotation, float scale, float* to, int64_t ld) {
  from.with(b, head, t, [&](auto* first) {
    for (int64_t i = 0; i < tokens; i++) {
      // heads of neighbouring tokens lie too far apart for the processor to fetch them by itself
      if (i + kAhead < tokens) {
        for (int64_t j = 0; j < from.d; j += kLine / sizeof(*first)) __builtin_prefetch(first + (i + kAhead) * from.ld + j);
      }
      rotate_token(from.d, first + i * from.ld, rotation, b * from.length + t + i, 1, scale, to + i * ld);
    }
  });
}

// A copy of a head: `rows` [tokens, ld_rows] elements; `pairs` [steps of tokens, ld_columns] words, that is Step's words
// of neighbouring tokens; `panels` [blocks of kPanel tokens][steps of d, kPanel] words of neighbouring dimensions.
// Columns are padded with zeros, tokens to an even number.
constexpr int64_t kPanel = 32;

template <class Step>
struct HeadLayout {
  int64_t length, d;
  static constexpr int64_t word = Step::kPerWord;
  int64_t ld_rows() const { return round_up(d, word); }
  int64_t columns() const { return round_up(d, kPad); }
  int64_t ld_pairs() const { return columns() * word; }
  int64_t panel_size() const { return ld_rows() * kPanel; }
  int64_t rows_size() const { return length * ld_rows(); }
  int64_t pairs_size() const { return round_up(length, word) * columns(); }
  int64_t panels_size() const { return blocks_of(length, kPanel) * panel_size(); }
};

template <class Step>
struct HeadCopy {
  using Element = typename Step::Element;
  Element* rows = nullptr;
  Element* pairs = nullptr;
  Element* panels = nullptr;
};

// Fills those copies that have memory from a strip of floats that begins with token t.
template <class Step>
static inline void copy_strip(const HeadLayout<Step>& layout, const float* strip, int64_t ld, int64_t t, int64_t tokens,
                              const HeadCopy<Step>& to) {
  if (to.rows != nullptr) pack_rows<Step>(strip, ld, tokens, layout.d, to.rows + t * layout.ld_rows(), layout.ld_rows());
  if (to.pairs != nullptr)
    pack_panel<Step>(strip, ld, tokens, layout.d, layout.columns(), to.pairs + t * layout.columns());
  for (int64_t i = 0; to.panels != nullptr && i < tokens; i += kPanel)
    pack_transposed_panel<Step>(strip + i * ld, ld, layout.d, smaller(kPanel, tokens - i), kPanel,
                                to.panels + (t + i) / kPanel * layout.panel_size());
}

// About what one query of one head costs when it sees half of the keys.
static inline double nanoseconds_a_query(const Attention& a) {
  return static_cast<double>(a.S) * (2.0 * static_cast<double>(a.d) / kFlopPerNanosecond + 0.1);
}

MOLT_SIMD_END
