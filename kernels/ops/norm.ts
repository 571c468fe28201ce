/** Sums of squares of many tensors at once, for gradient norms. Not differentiable on the native backend. */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';

/** Σ x² of each of the n tensors: one tensor [n], so that reading all of them back is one wait. */
export function sumSquares(tensors: readonly tf.Tensor[]): tf.Tensor {
  const fused = hasKernel('SumSquares');
  return tf.tidy(() => tf.stack(tensors.map((x) => (fused ? runKernel('SumSquares', { x }) : tf.sum(tf.square(x))))));
}
