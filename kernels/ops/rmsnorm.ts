/**
 * RMSNorm: y = x / √(mean(x²) + ε) ∘ w, over the last axis (docs/kernels.md, RMSNorm). Statistics are float32 on every
 * backend. Fused because it reads the row once instead of six times.
 *
 * Legend: R any leading dimensions, D hidden size.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';

/** x[R,D], weight[D] → [R,D]. `eps` is added inside the square root. */
export function rmsNorm<T extends tf.Tensor>(x_RD: T, weight_D: tf.Tensor, eps: number): T {
  if (!hasKernel('RmsNorm')) return rmsNormComposed(x_RD, weight_D, eps);
  return runKernel('RmsNorm', { x: x_RD, weight: weight_D }, { eps });
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
