/**
 * softplus(x + bias) = ln(1 + exp(x + bias)): how a Mamba-2 layer gets its positive step size dt. Never clamped.
 *
 * Legend: R any leading dimensions, C channels.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient, shared } from '../gradient-rules.ts';

/** x[R,C], bias[C] → [R,C]. */
export function softplusBias<T extends tf.Tensor>(x_RC: T, bias_C: tf.Tensor): T {
  if (!hasKernel('SoftplusBias')) return softplusBiasComposed(x_RC, bias_C);
  return runKernel('SoftplusBias', { x: x_RC, bias: bias_C });
}

export function softplusBiasComposed<T extends tf.Tensor>(x_RC: T, bias_C: tf.Tensor): T {
  return tf.softplus(tf.add<T>(x_RC, bias_C));
}

defineGradient({
  kernel: 'SoftplusBias',
  saves: [
    { input: 'x', for: ['x', 'bias'] },
    { input: 'bias', for: ['x', 'bias'] },
  ],
  gradient: ([dy], [x, bias]) => {
    const gradient = shared(() => runKernelOutputs('SoftplusBiasGrad', { dy: dy!, x: x!, bias: bias! }));
    return { x: () => gradient(0), bias: () => gradient(1) };
  },
});
