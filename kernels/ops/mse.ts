/**
 * How far a layer's output is from the one it should imitate: mean squared error for training, relative error for
 * reports and for losses that compare layers of different size.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';

/** mean((a − b)²) over all elements: a scalar. a and b have one shape. */
export function meanSquaredError(a: tf.Tensor, b: tf.Tensor): tf.Scalar {
  if (!hasKernel('MeanSquaredError')) return meanSquaredErrorComposed(a, b);
  return runKernel('MeanSquaredError', { a, b });
}

export function meanSquaredErrorComposed(a: tf.Tensor, b: tf.Tensor): tf.Scalar {
  return tf.mean(tf.squaredDifference(a, b));
}

/** Σ(a − b)² / Σ b²: 0 equal, 1 as bad as answering zero. */
export function relativeError(a: tf.Tensor, b: tf.Tensor): tf.Scalar {
  return tf.div(tf.sum(tf.square(tf.sub(a, b))), tf.sum(tf.square(b)));
}

defineGradient({
  kernel: 'MeanSquaredError',
  saves: [
    { input: 'a', for: ['a', 'b'] },
    { input: 'b', for: ['a', 'b'] },
  ],
  gradient: ([dy], [a, b]) => ({
    a: () => runKernel('MeanSquaredErrorGrad', { dy: dy!, a: a!, b: b! }),
    b: () => runKernel('MeanSquaredErrorGrad', { dy: dy!, a: b!, b: a! }),
  }),
});
