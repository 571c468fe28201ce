/**
 * The output gate of a Mamba-2 layer without a norm: o = g ∘ y ∘ SiLU(z), g one scale a channel.
 *
 * Legend: R any leading dimensions, C channels.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel, runKernelOutputs } from '../fused.ts';
import { defineGradient, shared } from '../gradient-rules.ts';
import { silu } from './activation.ts';

/** y[R,C], z[R,C], g[C] → [R,C]. */
export function gatedOutput<T extends tf.Tensor>(y_RC: T, z_RC: tf.Tensor, g_C: tf.Tensor): T {
  if (!hasKernel('GatedOutput')) return gatedOutputComposed(y_RC, z_RC, g_C);
  return runKernel('GatedOutput', { y: y_RC, z: z_RC, g: g_C });
}

export function gatedOutputComposed<T extends tf.Tensor>(y_RC: T, z_RC: tf.Tensor, g_C: tf.Tensor): T {
  return tf.mul(tf.mul(y_RC, silu(z_RC)), g_C);
}

const all = ['y', 'z', 'g'] as const;

defineGradient({
  kernel: 'GatedOutput',
  saves: all.map((input) => ({ input, for: all })),
  gradient: ([dO], [y, z, g]) => {
    const gradient = shared(() => runKernelOutputs('GatedOutputGrad', { do: dO!, y: y!, z: z!, g: g! }));
    return { y: () => gradient(0), z: () => gradient(1), g: () => gradient(2) };
  },
});
