// The last layer and its loss in one: logits of student and teacher, KL(teacher ‖ student) at temperature 1, the
// cross-entropy of both against the labels, whether their best words agree, and the gradient of the KL with respect to
// the student's hidden state. Logits stay float32 and exist for one block of tokens at a time; that matters late in
// training, when the KL is so small that rounded logits would drown its gradient.
//   KL = ⟨p, t − z⟩ − lse(t) + lse(z),   dKL/dz = q − p,   dKL/dh = (q − p) · W,   p = softmax(t), q = softmax(z)
//
// Logits lie as [V, tokens], transposed: then W is the left factor of its product and is read as it lies, where as the
// right factor it would be copied into panels for every block of tokens; and a vector holds one word of many tokens, so
// that sums over the vocabulary stay in their lanes. Legend: R tokens, V vocabulary, D hidden size.
#include "gemm.h"
#include "parallel.h"

MOLT_SIMD_BEGIN

// Terms summed in one float before they join the total: a chain of 100,000 additions would lose three digits.
constexpr int64_t kTermsPerSum = 256;

// Rows are further apart than the hardware looks ahead: 16 of them are the time that the third cache takes.
static inline void fetch_ahead(const float* row, int64_t ld) { __builtin_prefetch(row + 16 * ld); }

// The best word so far of each lane's token; of equals the first.
struct Best {
  Vec value = splat(-__builtin_inff());
  IntsOf<Vec> word{};

  void offer(Vec candidate, int64_t v) {
    const IntsOf<Vec> better = candidate > value;
    value = better ? candidate : value;
    word = better ? IntsOf<Vec>{} + static_cast<int32_t>(v) : word;
  }
};

// Logits of a block of tokens: column i of z and t is token `first + i`.
struct Block {
  int64_t V;
  float *z, *t;
  int64_t ld;
  int64_t first;
};

// One vector of tokens. With `gradient`, z becomes q − p. The columns beyond the end of a Part are zeros and not stored.
template <class At>
static void compare_tokens(const Block& block, At at, int64_t tokens, const int32_t* labels, bool gradient,
                           const Call& call) {
  const int64_t V = block.V, ld = block.ld;
  Best z_best, t_best;
  for (int64_t v = 0; v < V; v++) {
    const float *z = block.z + v * ld, *t = block.t + v * ld;
    fetch_ahead(z + at.at, ld);
    fetch_ahead(t + at.at, ld);
    z_best.offer(at.load(z), v);
    t_best.offer(at.load(t), v);
  }
  Vec z_label{}, t_label{};
  for (int64_t i = 0; i < tokens; i++) {
    const int32_t label = labels[block.first + at.at + i];
    if (label < 0 || label >= V) continue;
    z_label[i] = block.z[label * ld + at.at + i] - z_best.value[i];
    t_label[i] = block.t[label * ld + at.at + i] - t_best.value[i];
  }

  // z and t become their exponentials; `cross` is Σ exp(t) (t − z), everything relative to the maxima.
  Vec z_sum{}, t_sum{}, cross{};
  for (int64_t v0 = 0; v0 < V; v0 += kTermsPerSum) {
    Vec z_part{}, t_part{}, cross_part{};
    for (int64_t v = v0; v < smaller(V, v0 + kTermsPerSum); v++) {
      float *z = block.z + v * ld, *t = block.t + v * ld;
      fetch_ahead(z + at.at, ld);
      fetch_ahead(t + at.at, ld);
      const Vec zs = at.load(z) - z_best.value, ts = at.load(t) - t_best.value;
      const Vec ez = exp_below_one(zs), et = exp_below_one(ts);
      z_part += ez;
      t_part += et;
      cross_part += et * (ts - zs);
      at.store(z, ez);
      at.store(t, et);
    }
    z_sum += z_part;
    t_sum += t_part;
    cross += cross_part;
  }
  if (gradient) {
    const Vec q = 1.0f / z_sum, p = 1.0f / t_sum;
    for (int64_t v = 0; v < V; v++) {
      float *z = block.z + v * ld, *t = block.t + v * ld;
      fetch_ahead(z + at.at, ld);
      fetch_ahead(t + at.at, ld);
      at.store(z, at.load(z) * q - at.load(t) * p);
    }
  }

  for (int64_t i = 0; i < tokens; i++) {
    const int64_t token = block.first + at.at + i;
    const int32_t label = labels[token];
    const double z_log = __builtin_log(static_cast<double>(z_sum[i]));
    const double t_log = __builtin_log(static_cast<double>(t_sum[i]));
    // No label costs nothing; one outside the vocabulary is a mistake that must show.
    const auto nll = [&](double log, float logit) {
      if (label < 0) return 0.0f;
      return label < V ? static_cast<float>(log - static_cast<double>(logit)) : __builtin_nanf("");
    };
    call.out[0].f32()[token] =
        static_cast<float>(static_cast<double>(cross[i]) / static_cast<double>(t_sum[i]) - t_log + z_log);
    call.out[1].f32()[token] = nll(z_log, z_label[i]);
    call.out[2].f32()[token] = nll(t_log, t_label[i]);
    call.out[3].f32()[token] = z_best.word[i] == t_best.word[i] ? 1.0f : 0.0f;
  }
}

// Tokens whose logits exist at a time. Many use each weight often and read it rarely from memory; few keep the block
// small: for a large vocabulary, an eighth of the tokens up to 128, but 64 at least.
static inline int64_t tokens_at_a_time(int64_t V, int64_t R) {
  const int64_t of_small_vocabulary = smaller(512, (1 << 20) / V / 16 * 16);
  return larger(of_small_vocabulary, larger(64, smaller(128, R / 8 / 16 * 16)));
}

// {student[R,D], teacher[R,Dt], studentWeight[V,D], teacherWeight[V,Dt], labels[R]} [gradient]
// → [kl[R], nll[R], teacherNll[R], agree[R], dstudent[R,D]]
static void kl_head(const Call& call) {
  const Tensor &student = call.in[0], &teacher = call.in[1], &student_weight = call.in[2], &teacher_weight = call.in[3];
  const int32_t* labels = call.in[4].i32();
  const bool gradient = call.attr_int(0) != 0;
  const int64_t R = call.in[4].size(), V = student_weight.dims[0];
  const int64_t D = student_weight.dims[1], teacher_D = teacher_weight.dims[1];
  const bool one_head = student_weight.data == teacher_weight.data;
  const int64_t most = smaller(tokens_at_a_time(V, R), R);
  Pool& pool = *call.pool;

  Scratch scratch;
  float* logits = scratch.floats(V * 2 * most);
  float* both = one_head ? scratch.floats(2 * most * D) : nullptr;
  for (int64_t first = 0; first < R; first += most) {
    const int64_t tokens = smaller(most, R - first), ld = 2 * tokens;
    const Block block{V, logits, logits + tokens, ld, first};
    const float *hidden = student.f32() + first * D, *teacher_hidden = teacher.f32() + first * teacher_D;
    if (one_head) {
      // one pass over the weight serves both
      __builtin_memcpy(both, hidden, tokens * D * sizeof(float));
      __builtin_memcpy(both + tokens * D, teacher_hidden, tokens * D * sizeof(float));
      gemm_f32(pool, false, true, V, ld, D, student_weight.f32(), D, both, D, logits, ld, false);
    } else {
      gemm_f32(pool, false, true, V, tokens, D, student_weight.f32(), D, hidden, D, block.z, ld, false);
      gemm_f32(pool, false, true, V, tokens, teacher_D, teacher_weight.f32(), teacher_D, teacher_hidden, teacher_D,
               block.t, ld, false);
    }
    for_tasks(pool, blocks_of(tokens, kLanes), 10.0 * static_cast<double>(V), [&](int64_t group) {
      const int64_t at = group * kLanes, count = smaller(kLanes, tokens - at);
      if (count == kLanes) {
        compare_tokens(block, Whole{at}, count, labels, gradient, call);
      } else {
        compare_tokens(block, Part{at, count}, count, labels, gradient, call);
      }
    });
    if (gradient)
      gemm_f32(pool, true, false, tokens, D, V, block.z, ld, student_weight.f32(), D, call.out[4].f32() + first * D, D,
               false);
  }
}

MOLT_KERNEL("KlHead", kl_head);

MOLT_SIMD_END
