/**
 * Causal depthwise convolution of width 4 with its activation: φ(bias + Σ_j weight[·,j] ∘ x[t−3+j], s), where tap 3 is
 * the current token (docs/kernels.md, Convolution). Taps before the token's document read 0. The composed form adds
 * four shifted copies of x; the fused kernel keeps three rows in registers.
 *
 * Legend: B batch, T time, C channels.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient, shared } from '../gradient-rules.ts';
import { scaledSilu } from './activation.ts';
import { sameDocument } from './visibility.ts';

export const CONV_WIDTH = 4;

/**
 * x[B,T,C], weight[C,4], bias[C], start[B,T] int32 → [B,T,C].
 * @param s scale of the activation φ(u, s) = SiLU(s·u)·(2/s); 1 means plain SiLU(u).
 *
 * To decode, put the last 3 inputs (before the convolution) in front of the new ones and drop the first 3 results.
 */
export function causalConv(
  x_BTC: tf.Tensor,
  weight_C4: tf.Tensor,
  bias_C: tf.Tensor,
  start_BT: tf.Tensor,
  s: number,
): tf.Tensor3D {
  if (!hasKernel('CausalConv')) return causalConvComposed(x_BTC, weight_C4, bias_C, start_BT, s);
  return runKernel('CausalConv', { x: x_BTC, weight: weight_C4, bias: bias_C, start: start_BT }, { s });
}

export function causalConvComposed(
  x_BTC: tf.Tensor,
  weight_C4: tf.Tensor,
  bias_C: tf.Tensor,
  start_BT: tf.Tensor,
  s: number,
): tf.Tensor3D {
  const [batch, time, channels] = x_BTC.shape as [number, number, number];
  let sum: tf.Tensor = bias_C;
  for (let tap = 0; tap < CONV_WIDTH; tap++) {
    const distance = CONV_WIDTH - 1 - tap;
    const weight = tf.reshape(tf.slice(weight_C4, [0, tap], [channels, 1]), [channels]);
    const padded = tf.pad(x_BTC, [
      [0, 0],
      [distance, 0],
      [0, 0],
    ]);
    const earlier = tf.slice(padded, [0, 0, 0], [batch, time, channels]);
    const visible = tf.reshape(sameDocument(start_BT, distance), [batch, time, 1]);
    sum = tf.add(sum, tf.mul(tf.mul(earlier, visible), weight));
  }
  return scaledSilu(sum, s) as tf.Tensor3D;
}

const trained = ['x', 'weight', 'bias'];

defineGradient({
  kernel: 'CausalConv',
  saves: [
    { input: 'x', for: trained },
    { input: 'weight', for: trained },
    { input: 'bias', for: trained },
    { input: 'start', for: trained },
  ],
  gradient: ([dy], [x, weight, bias, start], attributes) => {
    const gradient = shared(() =>
      runKernelOutputs(
        'CausalConvGrad',
        { dy: dy!, x: x!, weight: weight!, bias: bias!, start: start! },
        { s: attributes['s'] as number },
      ),
    );
    return { x: () => gradient(0), weight: () => gradient(1), bias: () => gradient(2) };
  },
});
