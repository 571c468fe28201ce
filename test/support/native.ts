/** The native backend for tests: started, or a printed reason why not. */
import * as tf from '@tensorflow/tfjs-core';
import { addonMissing } from '../../kernels/addon.ts';
import type { NativeBackend } from '../../kernels/backend.ts';
import { startBackend } from '../../kernels/backends.ts';

/** Undefined when the addon is there; otherwise why tests of it are skipped, printed once. */
export const nativeMissing = addonMissing();
if (nativeMissing !== undefined) console.log(`tests of the native backend are skipped: ${nativeMissing}`);

export async function startNative(threads = 2): Promise<NativeBackend> {
  await startBackend({ backend: 'native', threads });
  return tf.backend() as NativeBackend;
}

/** Values in [−1, 1) that depend on the index alone (Knuth's multiplicative hash). */
export function pseudoRandom(size: number, seed = 1): Float32Array {
  return Float32Array.from({ length: size }, (_, i) => (Math.imul(i + seed * 7919, 2654435761) >>> 0) / 2 ** 31 - 1);
}

export function randomTensor(shape: readonly number[], seed?: number): tf.Tensor {
  return tf.tensor(pseudoRandom(tf.util.sizeFromShape([...shape]), seed), [...shape]);
}
