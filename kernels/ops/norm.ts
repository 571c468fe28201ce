/** Sums of squares of many tensors at once, for gradient norms. Not differentiable on the native backend. */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';

/** Σ x² of each of the n tensors: one tensor [n], so that reading all of them back is one wait. */
export function sumSquares(tensors: readonly tf.Tensor[]): tf.Tensor1D {
  const fused = hasKernel('SumSquares');
  const sumOf = (x: tf.Tensor): tf.Scalar => (fused ? runKernel('SumSquares', { x }) : tf.sum(tf.square(x)));
  return tf.tidy(() => tf.stack(tensors.map(sumOf)) as tf.Tensor1D);
}
