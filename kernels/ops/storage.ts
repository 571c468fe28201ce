/**
 * How a float32 tensor is stored: as it is, or as bf16, which halves memory and, where the processor multiplies bf16,
 * the time of products. Not a dtype: tfjs, gradients and callers see float32. Backends that have one way only leave the
 * tensor as it is.
 */
import * as tf from '@tensorflow/tfjs-core';
import { hasKernel, runKernel } from '../fused.ts';
import { defineGradient } from '../gradient-rules.ts';
import type { CommandBackend } from '../registry.ts';
import type { Storage } from '../rows/row.ts';

/** Storages as kernels take them in an attribute. */
export const storageCodes: Record<Storage, number> = { f32: 0, bf16: 1 };

/** x with its values stored as `storage`; to bf16 they are rounded to nearest. Its gradient passes through unchanged. */
export function castStorage<T extends tf.Tensor>(x: T, storage: Storage): T {
  if (!hasKernel('CastStorage') || storageOf(x) === storage) return tf.clone(x);
  return runKernel<T>('CastStorage', { x }, { storage: storageCodes[storage] });
}

export function storageOf(x: tf.Tensor): Storage {
  const backend = tf.backend() as tf.KernelBackend & Partial<Pick<CommandBackend, 'storage'>>;
  return backend.storage?.(x.dataId) ?? 'f32';
}

defineGradient({
  kernel: 'CastStorage',
  gradient: ([dy]) => ({ x: () => tf.clone(dy!) }),
});
