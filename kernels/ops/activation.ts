/** SiLU(x) = x σ(x), the one activation of these networks, from stock ops. Fused operations contain their own. */
import * as tf from '@tensorflow/tfjs-core';

export function silu<T extends tf.Tensor>(x: T): T {
  return tf.mul(x, tf.sigmoid(x));
}

/**
 * φ(u, s) of a Mamba-2 layer that starts from attention: SiLU(u) for s = 1, and SiLU(s·u)·(2/s) below, which for small
 * s is nearly the identity. The class that holds the exported student applies SiLU; s lives in its conv weights.
 */
export function scaledSilu<T extends tf.Tensor>(u: T, s: number): T {
  return s === 1 ? silu(u) : tf.mul(tf.mul(u, tf.sigmoid(tf.mul(u, s))), 2);
}
