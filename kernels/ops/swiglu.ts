/**
 * SwiGLU: h = SiLU(gate) ∘ up, the hidden activation of a Llama MLP (docs/kernels.md, SwiGLU). All shapes are equal.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient, shared } from '../gradient-rules.ts';
import { silu } from './activation.ts';

export function swiglu<T extends tf.Tensor>(gate: T, up: tf.Tensor): T {
  if (!hasKernel('SwiGlu')) return swigluComposed(gate, up);
  return runKernel('SwiGlu', { gate, up });
}

export function swigluComposed<T extends tf.Tensor>(gate: T, up: tf.Tensor): T {
  return tf.mul(silu(gate), up);
}

defineGradient({
  kernel: 'SwiGlu',
  saves: [
    { input: 'gate', for: ['gate', 'up'] },
    { input: 'up', for: ['gate', 'up'] },
  ],
  gradient: ([dy], [gate, up]) => {
    const gradient = shared(() => runKernelOutputs('SwiGluGrad', { dy: dy!, gate: gate!, up: up! }));
    return { gate: () => gradient(0), up: () => gradient(1) };
  },
});
