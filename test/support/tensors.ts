/** Small helpers around tfjs tensors for tests: backends, weighted losses, reading many tensors back. */
import * as tf from '@tensorflow/tfjs-core';
import '@tensorflow/tfjs-backend-cpu';
import '@tensorflow/tfjs-backend-wasm';
import { addonMissing } from '../../kernels/addon.ts';
import { startBackend } from '../../kernels/backends.ts';
import type { Array64 } from './reference.ts';

// Silences the greeting that tfjs prints on first use of the cpu backend under Node.
tf.env().set('PROD', true);

/**
 * The stock backends, on which every composed form must run, and `native` where its addon is built; or those that
 * MOLT_TEST_BACKENDS names (`npm run test:tensorflow`).
 */
export const testBackends: readonly string[] = process.env['MOLT_TEST_BACKENDS']?.split(',') ?? [
  'cpu',
  'wasm',
  ...nativeIfBuilt(),
];

function nativeIfBuilt(): string[] {
  const missing = addonMissing();
  if (missing === undefined) return ['native'];
  console.log(`native is not tested: ${missing}`);
  return [];
}

export async function useBackend(name: string): Promise<void> {
  if ((name === 'native' || name === 'tensorflow') && tf.findBackend(name) === null) {
    await startBackend({ backend: name, threads: 2 });
  }
  await tf.setBackend(name);
  await tf.ready();
}

/** Σ ⟨weight, output⟩ over the weights given. */
export function weightedSum(outputs: readonly tf.Tensor[], weights: readonly Array64[]): tf.Tensor {
  const terms = weights.map(({ shape, data }, index) =>
    tf.sum(tf.mul(outputs[index]!, tf.tensor(Float32Array.from(data), [...shape]))),
  );
  return tf.addN(terms);
}

export async function read(tensor: tf.Tensor): Promise<Float32Array> {
  return (await tensor.data<'float32'>()).slice();
}

export async function readAll(tensors: readonly tf.Tensor[]): Promise<Float32Array[]> {
  return Promise.all(tensors.map(read));
}

/** How many times each kernel runs while `body` does. */
export function countKernels(body: () => void): Map<string, number> {
  const counts = new Map<string, number>();
  const engine = tf.engine();
  const original = engine.runKernel;
  engine.runKernel = function runKernel<T extends tf.Tensor | tf.Tensor[]>(
    this: typeof engine,
    name: string,
    inputs: tf.NamedTensorMap,
    attributes?: tf.NamedAttrMap,
  ): T {
    counts.set(name, (counts.get(name) ?? 0) + 1);
    return original.call(this, name, inputs, attributes) as T;
  };
  try {
    body();
  } finally {
    engine.runKernel = original;
  }
  return counts;
}
