// The last layer and its loss in one: logits of student and teacher, KL(teacher ‖ student) at temperature 1, the
// cross-entropy of both against the labels, whether their best words agree, and the gradient of the KL with respect to
// the student's hidden state. Logits stay float32 and exist for one block of tokens at a time; that matters late in
// training, when the KL is so small that rounded logits would drown its gradient.
//   KL = ⟨p, t − z⟩ − lse(t) + lse(z),   dKL/dz = q − p,   dKL/dh = (q − p) · W,   p = softmax(t), q = softmax(z)
//
// For a block of tokens, three times over the vocabulary or what is left of it:
//   1. Strips of words: logits, and while they are near, their exponentials relative to the strip's own maxima, their
//      sums, and the best words. Where a gradient follows the exponentials stay in place of the logits.
//   2. From the statistics of all strips those of the vocabulary, and what a strip's exponentials are to be multiplied by.
//   3. Parts of the vocabulary: q − p from the exponentials, a few words at a time, and its product with their weights.
//
// Logits lie as [words, tokens] (token_panels.h): sums over words stay in their lanes, and weights are read as they lie.
// If hidden states or weights are stored as bf16, so are the factors of all products, q − p included.
//
// levels: avx512bf16
//
// Legend: R tokens, V vocabulary, D hidden size.
#include "token_panels.h"

MOLT_SIMD_BEGIN

// Parts of the vocabulary whose products are summed apart, so that threads can share them.
constexpr int64_t kParts = 8;
// Strips that a task takes one after the other.
constexpr int64_t kStripsPerTask = 4;
// Words of q − p that exist at a time.
constexpr int64_t kWordsNear = 2 * kStripRows;

// Of one strip of words and every token of a block, relative to the maxima: Σ exp(z), Σ exp(t), Σ exp(t) (t − z).
struct StripStatistics {
  float *z_max, *t_max, *z_sum, *t_sum, *cross;
  int32_t *z_best, *t_best;
};
constexpr int64_t kStatistics = 7;

// What is known of a block of tokens. Of each strip of words first the student's logits, then the teacher's, both as
// `multiply` leaves them.
struct Block {
  int64_t first, tokens, padded;
  int64_t V, D;
  const int32_t* labels;  // of the block's tokens
  float* logits;          // of all strips, or null: they exist for one at a time
  float* statistics;      // [strips, kStatistics, padded]
  float *z_label, *t_label;

  int64_t half_strip() const { return kStripRows * padded; }
  float* of_words(int64_t v) const { return logits + v / kStripRows * 2 * half_strip(); }
  int64_t strips() const { return blocks_of(V, kStripRows); }
  StripStatistics of_strip(int64_t strip) const {
    float* at = statistics + strip * kStatistics * padded;
    return {at,
            at + padded,
            at + 2 * padded,
            at + 3 * padded,
            at + 4 * padded,
            reinterpret_cast<int32_t*>(at + 5 * padded),
            reinterpret_cast<int32_t*>(at + 6 * padded)};
  }
};

// Statistics of the logits of one vector of tokens, which become exponentials if they are kept. `z` and `t` are `ld`
// floats from row to row.
static void compare_words(const Block& block, int64_t v0, int64_t rows, float* z, float* t, int64_t ld, int64_t token,
                          const StripStatistics& of) {
  Vec z_max = splat(-__builtin_inff()), t_max = z_max;
  for (int64_t v = 0; v < rows; v++) {
    z_max = max(z_max, load(z + v * ld));
    t_max = max(t_max, load(t + v * ld));
  }
  Vec z_sum{}, t_sum{}, cross{};
  IntsOf<Vec> z_best{}, t_best{};
  // downwards, so that of equals the first remains
  for (int64_t v = rows - 1; v >= 0; v--) {
    const Vec zs = load(z + v * ld) - z_max, ts = load(t + v * ld) - t_max;
    const Vec ez = exp_below_one(zs), et = exp_below_one(ts);
    z_sum += ez;
    t_sum += et;
    cross += et * (ts - zs);
    const IntsOf<Vec> word = IntsOf<Vec>{} + static_cast<int32_t>(v0 + v);
    z_best = zs == 0.0f ? word : z_best;
    t_best = ts == 0.0f ? word : t_best;
    if (block.logits == nullptr) continue;
    store(z + v * ld, ez);
    store(t + v * ld, et);
  }
  store(of.z_max + token, z_max);
  store(of.t_max + token, t_max);
  store(of.z_sum + token, z_sum);
  store(of.t_sum + token, t_sum);
  store(of.cross + token, cross);
  __builtin_memcpy(of.z_best + token, &z_best, sizeof z_best);
  __builtin_memcpy(of.t_best + token, &t_best, sizeof t_best);
}

static void compare_strip(const Block& block, int64_t strip, float* logits) {
  const int64_t v0 = strip * kStripRows, rows = smaller(kStripRows, block.V - v0);
  for_panels(block.tokens, [&](int64_t first, int64_t width, int64_t count) {
    float *z = logits + first * kStripRows, *t = z + block.half_strip();
    for (int64_t i = 0; i < count; i++) {
      const int64_t row = block.labels[first + i] - v0;
      if (row < 0 || row >= rows) continue;
      block.z_label[first + i] = z[row * width + i];
      block.t_label[first + i] = t[row * width + i];
    }
    for (int64_t at = 0; at < width; at += kLanes)
      compare_words(block, v0, rows, z + at, t + at, width, first + at, block.of_strip(strip));
  });
}

// Losses of one vector of tokens. The maxima of every strip are replaced by the factors that turn its exponentials into
// probabilities.
static void conclude(const Block& block, int64_t at, const Call& call) {
  Vec z_max = splat(-__builtin_inff()), t_max = z_max;
  IntsOf<Vec> z_best{}, t_best{};
  for (int64_t strip = 0; strip < block.strips(); strip++) {
    const StripStatistics of = block.of_strip(strip);
    const auto offer = [&](const float* maxima, const int32_t* words, Vec& highest, IntsOf<Vec>& best) {
      const Vec candidate = load(maxima + at);
      IntsOf<Vec> word;
      __builtin_memcpy(&word, words + at, sizeof word);
      best = candidate > highest ? word : best;
      highest = candidate > highest ? candidate : highest;
    };
    offer(of.z_max, of.z_best, z_max, z_best);
    offer(of.t_max, of.t_best, t_max, t_best);
  }

  double z_sum[kLanes] = {}, t_sum[kLanes] = {}, cross[kLanes] = {};
  const auto add = [](double (&sums)[kLanes], Vec terms) {
    for (int i = 0; i < kLanes; i++) sums[i] += static_cast<double>(terms[i]);
  };
  for (int64_t strip = 0; strip < block.strips(); strip++) {
    const StripStatistics of = block.of_strip(strip);
    const Vec z_below = load(of.z_max + at) - z_max, t_below = load(of.t_max + at) - t_max;
    const Vec z_factor = exp_below_one(z_below), t_factor = exp_below_one(t_below);
    const Vec t_terms = load(of.t_sum + at);
    add(z_sum, z_factor * load(of.z_sum + at));
    add(t_sum, t_factor * t_terms);
    add(cross, t_factor * (load(of.cross + at) + t_terms * (t_below - z_below)));
    store(of.z_max + at, z_factor);
    store(of.t_max + at, t_factor);
  }

  Vec q{}, p{};
  for (int64_t i = 0; i < smaller(kLanes, block.tokens - at); i++) {
    const int32_t label = block.labels[at + i];
    const double z_log = __builtin_log(z_sum[i]), t_log = __builtin_log(t_sum[i]);
    // No label costs nothing; one outside the vocabulary is a mistake that must show.
    const auto nll = [&](double log, float highest, float logit) {
      if (label < 0) return 0.0f;
      if (label >= block.V) return __builtin_nanf("");
      return static_cast<float>(log + (static_cast<double>(highest) - static_cast<double>(logit)));
    };
    const int64_t token = block.first + at + i;
    call.out[0].f32()[token] = static_cast<float>(cross[i] / t_sum[i] - t_log + z_log);
    call.out[1].f32()[token] = nll(z_log, z_max[i], block.z_label[at + i]);
    call.out[2].f32()[token] = nll(t_log, t_max[i], block.t_label[at + i]);
    call.out[3].f32()[token] = z_best[i] == t_best[i] ? 1.0f : 0.0f;
    q[i] = static_cast<float>(1 / z_sum[i]);
    p[i] = static_cast<float>(1 / t_sum[i]);
  }
  for (int64_t strip = 0; block.logits != nullptr && strip < block.strips(); strip++) {
    const StripStatistics of = block.of_strip(strip);
    store(of.z_max + at, load(of.z_max + at) * q);
    store(of.t_max + at, load(of.t_max + at) * p);
  }
}

// (q − p) · W over words [first, end), as `multiply` leaves it for every strip of features.
template <class Step>
static void multiply_part(const Block& block, int64_t first, int64_t end, const Factor& weight, float* sums) {
  Scratch scratch;
  auto* differences = elements_of<Step>(scratch, kWordsNear * block.padded);
  auto* weights = elements_of<Step>(scratch, kWordsNear * round_up(block.D, kStripRows));
  for (int64_t v0 = first; v0 < end; v0 += kWordsNear) {
    const int64_t words = smaller(kWordsNear, end - v0);
    const ColumnStrips<Step> strips{weights, words, block.D};
    strips.copy(weight.from(v0 * block.D), 0, words);
    const TokenPanels<Step> panels{differences, words, block.tokens};
    for (int64_t v = 0; v < words; v += kStripRows) {
      const int64_t strip = (v0 + v) / kStripRows, rows = smaller(kStripRows, words - v);
      const float* logits = block.of_words(v0 + v);
      const StripStatistics of = block.of_strip(strip);
      for_panels(block.tokens, [&](int64_t first, int64_t width, int64_t) {
        for (int64_t at = 0; at < width; at += kLanes) {
          const float *z = logits + first * kStripRows + at, *t = z + block.half_strip();
          const Vec q = load(of.z_max + first + at), p = load(of.t_max + first + at);
          const auto difference = [&](int64_t i) { return load(z + i * width) * q - load(t + i * width) * p; };
          for (int64_t i = 0; i < rows; i += Step::kPerWord) {
            const bool pair = Step::kPerWord == 2 && i + 1 < rows;
            store_features(panels, v + i, first + at, difference(i), pair ? difference(i + 1) : Vec{});
          }
        }
      });
    }
    const int64_t more = smaller(kWordsNear, end - v0 - words);
    const Ahead next_logits{reinterpret_cast<const char*>(block.of_words(v0 + words)),
                            more * 2 * block.padded * static_cast<int64_t>(sizeof(float))};
    const Ahead next_weights = ahead(weight.from((v0 + words) * block.D), more);
    const int64_t count = blocks_of(block.D, kStripRows);
    for (int64_t i = 0; i < count; i++) {
      const int64_t feature = i * kStripRows, rows = smaller(kStripRows, block.D - feature);
      const Ahead next = i < count / 2 ? next_weights.part(i, count / 2) : next_logits.part(i - count / 2, blocks_of(count, 2));
      multiply(strips.strip(feature), rows, panels, sums + feature * block.padded, v0 > first, next);
    }
  }
}

// Tokens whose logits exist at a time. Many use each weight often and read it rarely from memory; few keep the block
// small: 64 to 128, an eighth of all tokens between, and more only if their logits take no more than 2 MB.
static inline int64_t tokens_at_a_time(int64_t V, int64_t R) {
  const int64_t of_small_vocabulary = smaller(512, (1 << 18) / V / 32 * 32);
  return larger(of_small_vocabulary, larger(64, smaller(128, R / 8 / 32 * 32)));
}

template <class Step>
static void kl_head_of(const Call& call) {
  const Factor student = factor(call.in[0], call.in[0].last()), teacher = factor(call.in[1], call.in[1].last());
  const Factor student_weight = factor(call.in[2], student.ld), teacher_weight = factor(call.in[3], teacher.ld);
  const bool gradient = call.attr_int(0) != 0, one_head = student_weight.data == teacher_weight.data;
  const int64_t R = call.in[4].size(), V = call.in[2].dims[0], D = student.ld;
  const int64_t most = smaller(tokens_at_a_time(V, R), R), most_padded = round_up(most, kLanes);
  const int64_t part = round_up(blocks_of(V, kParts), kStripRows), parts = blocks_of(V, part);
  Pool& pool = *call.pool;

  Scratch scratch;
  float* statistics = scratch.floats(blocks_of(V, kStripRows) * kStatistics * most_padded);
  float* labels = scratch.floats(2 * most);
  // student's panels and, behind them, the teacher's
  auto* hidden = elements_of<Step>(scratch, (round_up(D, 2) + round_up(teacher.ld, 2)) * most_padded);
  const int64_t sums_of_part = round_up(D, kStripRows) * most_padded;
  float* sums = gradient ? scratch.floats(parts * sums_of_part) : nullptr;
  float* logits = gradient ? scratch.floats(round_up(V, kStripRows) * 2 * most_padded) : nullptr;

  for (int64_t first = 0; first < R; first += most) {
    const int64_t tokens = smaller(most, R - first), padded = round_up(tokens, kLanes);
    const Block block{first, tokens, padded, V, D, call.in[4].i32() + first, logits, statistics, labels, labels + most};
    const TokenPanels<Step> student_panels{hidden, D, tokens};
    const TokenPanels<Step> teacher_panels{hidden + round_up(D, 2) * padded, teacher.ld, tokens};
    student_panels.pack(student.from(first * D));
    teacher_panels.pack(teacher.from(first * teacher.ld));

    const double flops = 2.0 * static_cast<double>(kStripRows * (D + teacher.ld) * tokens);
    for_tasks(pool, blocks_of(block.strips(), kStripsPerTask), kStripsPerTask * flops / kFlopPerNanosecond, [&](int64_t task) {
      Scratch own;
      auto* copy = elements_of<Step>(own, strip_elements<Step>(larger(D, teacher.ld)));
      float* one = gradient ? nullptr : own.floats(2 * block.half_strip());
      for (int64_t index = task * kStripsPerTask; index < smaller(block.strips(), (task + 1) * kStripsPerTask); index++) {
        const int64_t v = index * kStripRows, rows = smaller(kStripRows, V - v);
        float* to = gradient ? block.of_words(v) : one;
        const auto left = strip_of_rows<Step>(student_weight.from(v * D), rows, D, copy);
        const int64_t next = v + rows;
        multiply(left, rows, student_panels, to, false, ahead(student_weight.from(next * D), smaller(kStripRows, V - next)));
        const auto teacher_left = one_head ? left : strip_of_rows<Step>(teacher_weight.from(v * teacher.ld), rows, teacher.ld, copy);
        multiply(teacher_left, rows, teacher_panels, to + block.half_strip());
        compare_strip(block, index, to);
      }
    });
    for_tasks(pool, padded / kLanes, 100.0 * static_cast<double>(block.strips()),
              [&](int64_t group) { conclude(block, group * kLanes, call); });
    if (!gradient) continue;

    for_tasks(pool, parts, 2.0 * static_cast<double>(part * D * tokens) / kFlopPerNanosecond, [&](int64_t index) {
      multiply_part<Step>(block, index * part, smaller(V, (index + 1) * part), student_weight,
                          sums + index * sums_of_part);
    });
    float* dstudent = call.out[4].f32() + first * D;
    for_tasks(pool, blocks_of(D, kStripRows), static_cast<double>(parts * tokens * kStripRows) / kLanes, [&](int64_t index) {
      const int64_t feature = index * kStripRows, rows = smaller(kStripRows, D - feature);
      float* total = sums + feature * padded;
      for (int64_t other = 1; other < parts; other++) {
        const float* more = total + other * sums_of_part;
        for_panels(tokens, [&](int64_t first, int64_t width, int64_t) {
          float* to = total + first * kStripRows;
          for_row(rows * width, [&](auto at) { at.store(to, at.load(to) + at.load(more + first * kStripRows)); });
        });
      }
      each_token(rows, tokens, total, [&](int64_t token, const float* values) {
        __builtin_memcpy(dstudent + token * D + feature, values, rows * sizeof(float));
      });
    });
  }
}

// {student[R,D], teacher[R,E], studentWeight[V,D], teacherWeight[V,E], labels[R]} [gradient]
// → [kl[R], nll[R], teacherNll[R], agree[R], dstudent[R,D]]
static void kl_head(const Call& call) {
  with_step_of(call.in, 4, [&](auto step) { kl_head_of<decltype(step)>(call); });
}

MOLT_KERNEL("KlHead", kl_head);

MOLT_SIMD_END
