/**
 * RMSNorm: y = x / √(mean(x²) + ε) ∘ w, over the last axis (docs/kernels.md, RMSNorm). Statistics are float32 on every
 * backend. Fused because it reads the row once instead of six times.
 *
 * Legend: R any leading dimensions, D hidden size.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';
import type { Storage } from '../rows/row.ts';
import { castStorage, storageCodes } from './storage.ts';

export interface RmsNormOptions {
  /** How the result is stored. bf16 suits the operand of a matrix product. Default f32. */
  readonly storage?: Storage;
}

/** x[R,D], weight[D] → [R,D]. `eps` is added inside the square root. The gradient of x is stored as x is. */
export function rmsNorm<T extends tf.Tensor>(
  x_RD: T,
  weight_D: tf.Tensor,
  eps: number,
  { storage = 'f32' }: RmsNormOptions = {},
): T {
  if (!hasKernel('RmsNorm')) return castStorage(rmsNormComposed(x_RD, weight_D, eps), storage);
  return runKernel('RmsNorm', { x: x_RD, weight: weight_D }, { eps, storage: storageCodes[storage] });
}

export function rmsNormComposed<T extends tf.Tensor>(x_RD: T, weight_D: tf.Tensor, eps: number): T {
  const meanSquare = tf.mean(tf.square(x_RD), -1, true);
  return tf.mul(tf.mul(x_RD, tf.rsqrt(tf.add(meanSquare, eps))), weight_D);
}

defineGradient({
  kernel: 'RmsNorm',
  saves: [
    { input: 'x', for: ['x', 'weight'] },
    { input: 'weight', for: ['x'] },
  ],
  gradient: ([dy], [x, weight], attributes) => {
    const eps = attributes['eps'] as number;
    return {
      x: () => runKernel('RmsNormGrad', { dy: dy!, x: x!, weight: weight! }, { eps }),
      weight: () => runKernel('RmsNormWeightGrad', { dy: dy!, x: x! }, { eps }),
    };
  },
});
