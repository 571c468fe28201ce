// The last layer and its loss in one: logits of student and teacher, KL(teacher ‖ student) at temperature 1, the
// cross-entropy of both against the labels, whether their best words agree, and the gradient of the KL with respect to
// the student's hidden state. Logits stay float32 and exist for one block of tokens at a time; that matters late in
// training, when the KL is so small that rounded logits would drown its gradient.
//   KL = ⟨p, t − z⟩ − lse(t) + lse(z),   dKL/dz = q − p,   dKL/dh = (q − p) · W,   p = softmax(t), q = softmax(z)
#include "gemm.h"
#include "parallel.h"
#include "softmax.h"

MOLT_SIMD_BEGIN

static inline int64_t arg_max(int64_t V, const float* z, float maximum) {
  for (int64_t first = 0; first < V; first++)
    if (z[first] == maximum) return first;
  return -1;
}

struct RowLoss {
  float kl, student_nll, teacher_nll, agree;
};

// One row of logits. With `gradient`, z becomes q − p.
static RowLoss compare_row(int64_t V, float* z, float* t, int32_t label, bool gradient) {
  const float z_max = row_max(V, z), t_max = row_max(V, t);
  RowLoss loss{};
  loss.agree = arg_max(V, z, z_max) == arg_max(V, t, t_max) ? 1.0f : 0.0f;
  const bool inside = label >= 0 && label < V;
  const float z_label = inside ? z[label] - z_max : 0, t_label = inside ? t[label] - t_max : 0;

  // z and t become their exponentials; `cross` is Σ exp(t) (t − z), everything relative to the maxima.
  Vec z_sums{}, t_sums{}, cross{};
  for_row(V, [&](auto at) {
    const Vec zs = at.load(z) - z_max, ts = at.load(t) - t_max;
    const Vec ez = at.keep(exp_below_one(zs), 0), et = at.keep(exp_below_one(ts), 0);
    z_sums += ez;
    t_sums += et;
    cross += et * (ts - zs);
    at.store(z, ez);
    at.store(t, et);
  });
  const float z_sum = sum(z_sums), t_sum = sum(t_sums);
  const double z_log = __builtin_log(static_cast<double>(z_sum)), t_log = __builtin_log(static_cast<double>(t_sum));
  loss.kl = static_cast<float>(static_cast<double>(sum(cross)) / static_cast<double>(t_sum) - t_log + z_log);
  if (inside) {
    loss.student_nll = static_cast<float>(z_log - static_cast<double>(z_label));
    loss.teacher_nll = static_cast<float>(t_log - static_cast<double>(t_label));
  } else if (label >= V) {
    loss.student_nll = loss.teacher_nll = __builtin_nanf("");
  }
  if (gradient) {
    const float q = 1.0f / z_sum, p = 1.0f / t_sum;
    for_row(V, [&](auto at) { at.store(z, at.load(z) * q - at.load(t) * p); });
  }
  return loss;
}

// Tokens whose logits exist at a time: many enough to use each weight often, few enough for the caches.
static inline int64_t tokens_at_a_time(int64_t V) { return larger(64, smaller(512, (1 << 18) / V / 16 * 16)); }

// {student[R,D], teacher[R,Dt], studentWeight[V,D], teacherWeight[V,Dt], labels[R]} [gradient]
// → [kl[R], nll[R], teacherNll[R], agree[R], dstudent[R,D]]
static void kl_head(const Call& call) {
  const Tensor &student = call.in[0], &teacher = call.in[1], &student_weight = call.in[2], &teacher_weight = call.in[3];
  const int32_t* labels = call.in[4].i32();
  const bool gradient = call.attr_int(0) != 0;
  const int64_t R = call.in[4].size(), V = student_weight.dims[0];
  const int64_t D = student_weight.dims[1], teacher_D = teacher_weight.dims[1];
  const int64_t block = tokens_at_a_time(V);
  Pool& pool = *call.pool;

  Scratch scratch;
  float* z = scratch.floats(smaller(block, R) * V);
  float* t = scratch.floats(smaller(block, R) * V);
  for (int64_t first = 0; first < R; first += block) {
    const int64_t rows = smaller(block, R - first);
    const float *hidden = student.f32() + first * D, *teacher_hidden = teacher.f32() + first * teacher_D;
    gemm_f32(pool, false, true, rows, V, D, hidden, D, student_weight.f32(), D, z, V, false);
    gemm_f32(pool, false, true, rows, V, teacher_D, teacher_hidden, teacher_D, teacher_weight.f32(), teacher_D, t, V,
             false);
    for_row_blocks(pool, rows, 0.4 * static_cast<double>(V) + 50, [&](int64_t from, int64_t end) {
      for (int64_t i = from; i < end; i++) {
        const RowLoss loss = compare_row(V, z + i * V, t + i * V, labels[first + i], gradient);
        call.out[0].f32()[first + i] = loss.kl;
        call.out[1].f32()[first + i] = loss.student_nll;
        call.out[2].f32()[first + i] = loss.teacher_nll;
        call.out[3].f32()[first + i] = loss.agree;
      }
    });
    if (gradient)
      gemm_f32(pool, false, false, rows, D, V, z, V, student_weight.f32(), D, call.out[4].f32() + first * D, D, false);
  }
}

MOLT_KERNEL("KlHead", kl_head);

MOLT_SIMD_END
