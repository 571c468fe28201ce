/**
 * The MLP of a Llama block with its residual: y = residual + (SiLU(u · gateᵀ) ∘ (u · upᵀ)) · downᵀ (docs/kernels.md,
 * SwiGLU). The fused kernel takes a block of tokens through all of it, so that the I-wide activations of a block stay in
 * a core's cache; it holds the weights fixed, which is what distillation does. Gate and up outlive the kernel only while
 * a gradient is being recorded, in the order in which its backward pass reads them, or not at all with `recompute`.
 *
 * Legend: R any leading dimensions, D hidden, I intermediate.
 */
import * as tf from '@tensorflow/tfjs-core';
import { isRecording } from '../autograd.ts';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';
import { linear } from './linear.ts';
import { swiglu } from './swiglu.ts';

export interface GatedMlpWeights {
  readonly gate_ID: tf.Tensor;
  readonly up_ID: tf.Tensor;
  readonly down_DI: tf.Tensor;
}

export interface GatedMlpOptions {
  /**
   * Keep only u for the backward pass, which then computes gate and up again: 2 · I values a token less to keep for half
   * as much work again in the backward pass. Default false.
   */
  readonly recompute?: boolean;
}

/**
 * u and the residual are [R, D]; so is the result. u and the weights may be stored as bf16; the result and, as ever, the
 * sums are float32. A weight that is a variable is taken for trained: then the operation is composed of finer ones,
 * which have gradients for it.
 */
export function gatedMlp<T extends tf.Tensor>(
  u_RD: tf.Tensor,
  weights: GatedMlpWeights,
  residual_RD: T,
  { recompute = false }: GatedMlpOptions = {},
): T {
  const { gate_ID, up_ID, down_DI } = weights;
  const trained = [gate_ID, up_ID, down_DI].some((weight) => weight instanceof tf.Variable);
  if (trained || !hasKernel('GatedMlp')) return gatedMlpComposed(u_RD, weights, residual_RD);
  const inputs = { u: u_RD, gateWeight: gate_ID, upWeight: up_ID, downWeight: down_DI, residual: residual_RD };
  if (recompute) return runKernel<T>('GatedMlpRecomputed', inputs, { save: 0 });
  return runKernelOutputs('GatedMlp', inputs, { save: isRecording() ? 1 : 0 })[0] as T;
}

export function gatedMlpComposed<T extends tf.Tensor>(
  u_RD: tf.Tensor,
  { gate_ID, up_ID, down_DI }: GatedMlpWeights,
  residual_RD: T,
): T {
  const h_RI = swiglu(linear(u_RD, gate_ID), linear(u_RD, up_ID));
  return tf.add(residual_RD, linear(h_RI, down_DI));
}

defineGradient({
  kernel: 'GatedMlp',
  saves: [
    { input: 'gateWeight', for: ['u'] },
    { input: 'upWeight', for: ['u'] },
    { input: 'downWeight', for: ['u'] },
    { output: 1, for: ['u'] },
    { output: 2, for: ['u'] },
  ],
  differentiableOutputs: 1,
  gradient: ([dy], [gateWeight, upWeight, downWeight, gate, up]) => ({
    residual: () => tf.clone(dy!),
    u: () =>
      runKernel('GatedMlpGrad', {
        dy: dy!,
        gate: gate!,
        up: up!,
        gateWeight: gateWeight!,
        upWeight: upWeight!,
        downWeight: downWeight!,
      }),
  }),
});

defineGradient({
  kernel: 'GatedMlpRecomputed',
  saves: [
    { input: 'u', for: ['u'] },
    { input: 'gateWeight', for: ['u'] },
    { input: 'upWeight', for: ['u'] },
    { input: 'downWeight', for: ['u'] },
  ],
  gradient: ([dy], [u, gateWeight, upWeight, downWeight]) => ({
    residual: () => tf.clone(dy!),
    u: () =>
      runKernel('GatedMlpRecomputedGrad', {
        dy: dy!,
        u: u!,
        gateWeight: gateWeight!,
        upWeight: upWeight!,
        downWeight: downWeight!,
      }),
  }),
});
