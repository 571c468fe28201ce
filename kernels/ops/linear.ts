/**
 * Linear layer y = x Wᵀ + b. The weight lies as checkpoints store it, one row an output feature. Fused because this is
 * where the flops are: the native backend multiplies by the transposed weight without ever transposing it.
 *
 * Legend: R any leading dimensions, K features in, N features out.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';

/** y[R,N] = x[R,K] · weight[N,K]ᵀ + bias[N]. The leading dimensions of x are kept. */
export function linear<T extends tf.Tensor>(x_RK: T, weight_NK: tf.Tensor, bias_N?: tf.Tensor): T {
  if (!hasKernel('Linear')) return linearComposed(x_RK, weight_NK, bias_N);
  const y_RN = runKernel<T>('Linear', { x: x_RK, weight: weight_NK });
  return bias_N === undefined ? y_RN : tf.add(y_RN, bias_N);
}

export function linearComposed<T extends tf.Tensor>(x_RK: T, weight_NK: tf.Tensor, bias_N?: tf.Tensor): T {
  const [features, inputs] = weight_NK.shape as [number, number];
  const rows = tf.reshape(x_RK, [-1, inputs]);
  const product = tf.matMul(rows, weight_NK as tf.Tensor2D, false, true);
  const y_RN = tf.reshape(product, [...x_RK.shape.slice(0, -1), features]) as T;
  return bias_N === undefined ? y_RN : tf.add(y_RN, bias_N);
}

defineGradient({
  kernel: 'Linear',
  saves: [
    { input: 'x', for: ['weight'] },
    { input: 'weight', for: ['x'] },
  ],
  gradient: ([dy], [x, weight]) => ({
    x: () => runKernel('LinearInputGrad', { dy: dy!, weight: weight! }),
    weight: () => runKernel('LinearWeightGrad', { dy: dy!, x: x! }),
  }),
});
