// Drives the gradient of the scan of one head over a row of tokens: one sweep forwards for the states before every block,
// one backwards that hands each block to its form of the gradient. Whose rows they are is the business of a `source`:
//   source.load_written(first, end)   dt, x, b of these tokens into the HeadGradRows: what a state depends on
//   source.load(first, end)           these, c and dy
//   source.store(first, end)          takes the gradients
// Small heads go token by token (ssd_grad_steps.h), large ones in chunks of matrix products (ssd_grad_chunks.h). In both,
// every term of the decays' gradient is a sum of its own parts.
#pragma once
#include "ssd_grad_chunks.h"
#include "ssd_grad_steps.h"

MOLT_SIMD_BEGIN

template <class Form>
struct GradForm {
  using type = Form;
};

// `Step` is the arithmetic of the chunks' products.
template <class Step, class Body>
static inline void with_grad_form(int64_t P, Body&& body) {
  if (P > 2 * kLanes || P > 16) return body(GradForm<ChunksGrad<Step>>{});
  if (P > kLanes) return body(GradForm<StepsGrad<Vec, 2>>{});
  with_vector_for(P, [&](auto v) { body(GradForm<StepsGrad<decltype(v), 1>>{}); });
}

// make_source(rows, longest) gives the source; `start` is that of the row.
template <class Step, class MakeSource>
static void scan_head_grad(const Head& head, int64_t T, const int32_t* start, MakeSource&& make_source) {
  with_grad_form<Step>(head.P, [&](auto chosen) {
    using Form = typename decltype(chosen)::type;
    Scratch scratch;
    const int64_t longest = Form::longest_block(head, T);
    HeadGradRows rows(longest, Form::values_for(head.P), round_up(head.N, kPad), scratch);
    Form form(head, rows, longest, scratch);
    auto source = make_source(rows, longest, scratch);

    int32_t* firsts = scratch.ints(T + 1);
    const int64_t blocks = cut_row(T, start, longest, firsts), size = form.state_floats();
    float* entries = scratch.floats(blocks * size);  // the state before each block
    float* dstate = scratch.floats(size);
    const auto is_fresh = [&](int64_t i) { return i == 0 || start[firsts[i]] == firsts[i]; };

    for (int64_t i = 0; i < blocks; i++) {
      float* state = entries + i * size;
      if (is_fresh(i)) {
        __builtin_memset(state, 0, size * sizeof(float));
        continue;
      }
      rows.length = firsts[i] - firsts[i - 1];
      source.load_written(firsts[i - 1], firsts[i]);
      __builtin_memcpy(state, state - size, size * sizeof(float));
      form.forward(state);
    }
    for (int64_t i = blocks - 1; i >= 0; i--) {
      if (i == blocks - 1 || is_fresh(i + 1)) __builtin_memset(dstate, 0, size * sizeof(float));
      rows.length = firsts[i + 1] - firsts[i];
      source.load(firsts[i], firsts[i + 1]);
      form.backward(entries + i * size, dstate, is_fresh(i));
      source.store(firsts[i], firsts[i + 1]);
    }
    source.finish();
  });
}

// About what a token of a head costs.
static inline double grad_nanoseconds(int64_t P, int64_t N) {
  return 20.0 * static_cast<double>(P * N) / (0.5 * kFlopPerNanosecond) + 40;
}

MOLT_SIMD_END
